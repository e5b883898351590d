insert into suppression ({columns})
select {columns} from {staging}
on conflict (asset_uid, tf, exchange_ts, revision, detector_id) do update
set ({values}) = row ({excluded})
