select * from features_snapshot where exchange_ts > %(since)s and exchange_ts <= %(until)s
order by exchange_ts, asset_uid, tf
