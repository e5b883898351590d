-- An event never changes: its id is derived from its content.
insert into {table} ({columns})
select {columns} from {staging}
on conflict (event_id) do nothing
