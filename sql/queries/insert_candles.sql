-- A candle that is stored stays as it is.
insert into candle_bar
select * from jsonb_populate_recordset(null::candle_bar, %(rows)s)
on conflict (asset_uid, tf, exchange_ts) do nothing
