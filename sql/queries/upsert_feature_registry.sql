-- Where nothing differs nothing is written; added_at stays that of the first insert.
insert into feature_registry as t ({columns})
select {columns} from jsonb_populate_recordset(null::feature_registry, %(rows)s)
on conflict (feature_name, pack) do update
set ({values}) = row ({excluded})
where row ({current}) is distinct from row ({excluded})
