-- The newest name counts.
select distinct on (asset_uid) asset_uid, symbol from features_snapshot
where tf = '1m' and asset_uid >= 0
and exchange_ts between %(first)s and %(last)s
order by asset_uid, exchange_ts desc
