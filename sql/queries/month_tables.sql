-- The month tables of a parent by their names: part of it, on the way out, or out and not dropped.
select c.relname, coalesce(i.inhdetachpending, false), c.relispartition, pg_total_relation_size(c.oid)
from pg_class c
left join pg_inherits i on i.inhrelid = c.oid
where c.relnamespace = current_schema()::regnamespace and c.relkind = 'r'
and c.relname ~ %(pattern)s
and (i.inhparent is null or i.inhparent = to_regclass(quote_ident(%(parent)s)))
order by c.relname
