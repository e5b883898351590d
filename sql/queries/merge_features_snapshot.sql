-- An older revision never replaces a newer one; the same revision does, so a retry is harmless.
insert into features_snapshot as t ({columns})
select {columns} from {staging}
on conflict (asset_uid, tf, exchange_ts) do update
set ({values}) = row ({excluded})
where t.revision <= excluded.revision
