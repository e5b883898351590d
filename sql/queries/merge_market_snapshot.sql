-- An older revision never replaces a newer one; the same revision does, so a retry is harmless.
insert into market_snapshot as t ({columns})
select {columns} from {staging}
on conflict (tf, exchange_ts) do update
set ({values}) = row ({excluded})
where t.revision <= excluded.revision
