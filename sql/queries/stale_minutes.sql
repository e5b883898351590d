select asset_uid, symbol, (extract(epoch from exchange_ts) * 1000)::bigint
from features_snapshot
where tf = '1m' and asset_uid >= 0 and 'gap' = any(dq_reasons)
and exchange_ts between %(first)s and %(last)s
order by asset_uid, exchange_ts
