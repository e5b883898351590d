-- A dead letter never changes: its digest is that of its text.
insert into dead_letter ({columns})
select {columns} from {staging}
on conflict (minute_ts, digest) do nothing
