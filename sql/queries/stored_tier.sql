select tier from tier_move
where asset_uid = %(asset_uid)s and exchange_ts <= %(label)s
order by exchange_ts desc limit 1
