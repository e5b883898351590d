select * from market_snapshot where exchange_ts > %(since)s and exchange_ts <= %(until)s
order by exchange_ts, tf
