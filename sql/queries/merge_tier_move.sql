insert into tier_move ({columns})
select {columns} from {staging}
on conflict (asset_uid, exchange_ts) do update
set ({values}) = row ({excluded})
