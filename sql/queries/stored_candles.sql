select (extract(epoch from exchange_ts) * 1000)::bigint, open, high, low, close,
  volume_base, trade_count
from candle_bar
where asset_uid = %(asset_uid)s and tf = '1m'
and exchange_ts between %(first)s and %(last)s
order by exchange_ts
