insert into universe_audit ({columns})
select {columns} from {staging}
on conflict (exchange_ts) do update
set ({values}) = row ({excluded})
