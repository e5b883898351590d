insert into universe_deferral ({columns})
select {columns} from {staging}
on conflict (exchange_ts, asset_uid) do nothing
