-- Attached, not created in place: `partition of` would lock out every reader of the parent.
create table {partition} (like {parent} including all);
alter table {parent} attach partition {partition} for values from ({lower}) to ({upper});
