select * from market_snapshot where tf = %(tf)s and exchange_ts = %(label)s
