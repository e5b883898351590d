-- An event never changes: its id is derived from its content, and the time in it is its emission.
insert into {table} ({columns})
select {columns} from {staging}
on conflict (event_id, emitted_at) do nothing
