-- Where nothing differs nothing is written; added_at stays that of the first insert.
insert into {table} as t ({columns})
select {columns} from jsonb_populate_recordset(null::{table}, %(rows)s)
on conflict ({key}) do update
set ({values}) = row ({excluded})
where row ({current}) is distinct from row ({excluded})
