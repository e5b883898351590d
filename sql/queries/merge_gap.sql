-- Lines that are read again do not open a gap that was closed.
insert into gap as t ({columns})
select {columns} from {staging}
on conflict (feed, started_at, cause) do update
set ended_at = coalesce(excluded.ended_at, t.ended_at)
