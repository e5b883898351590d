select (extract(epoch from exchange_ts) * 1000)::bigint, open, high, low, close,
  v_total_m_1, trade_count_m_1, dq_reasons
from features_snapshot
where asset_uid = %(asset_uid)s and tf = '1m'
and exchange_ts between %(first)s and %(last)s
order by exchange_ts
