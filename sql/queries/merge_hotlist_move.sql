insert into hotlist_move ({columns})
select {columns} from {staging}
on conflict (asset_uid, exchange_ts, move) do update
set ({values}) = row ({excluded})
