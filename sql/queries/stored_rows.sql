select * from features_snapshot
where asset_uid = %(asset_uid)s and tf = %(tf)s
and exchange_ts > %(since)s and exchange_ts <= %(until)s
order by exchange_ts
