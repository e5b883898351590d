-- An older baseline never replaces a newer one; the same one does, so a retry is harmless.
insert into baseline_state as t ({columns})
select {columns} from {staging}
on conflict (asset_uid, tf, feature_name) do update
set ({values}) = row ({excluded})
where t.updated_at <= excluded.updated_at
