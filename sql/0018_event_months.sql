-- Events, suppressions and dead letters in a table a month, so that those that are older than they
-- are kept can be dropped. A table that has rows keeps them, with its owner and its grants.
--
-- The key of an event has its emission, as the partition needs; event_id_time makes that no weaker
-- than the id alone: one id has one emission. It is not asked of rows that are there already.

do $$
declare
  whole record;
  month date;
  object record;
  former text[];
begin
  for whole in
    select c.oid, c.relowner, c.relacl, parts.*, c.relname || '_whole' as kept,
      obj_description(c.oid, 'pg_class') as comment
    from (values
      ('anomaly_event', 'emitted_at', 'event_id, emitted_at'),
      ('shadow_event', 'emitted_at', 'event_id, emitted_at'),
      ('suppression', 'exchange_ts', 'asset_uid, tf, exchange_ts, revision, detector_id'),
      ('dead_letter', 'minute_ts', 'minute_ts, digest')
    ) as parts (relation, instant, key)
    join pg_class c on c.oid = to_regclass(relation)
  loop
    -- Whoever writes waits; what he has written is seen below.
    execute format('lock table %I in access exclusive mode', whole.relation);
    select array_agg(pg_get_indexdef(indexrelid)) into former
    from pg_index where indrelid = whole.oid and not indisprimary;
    execute format('alter table %I rename to %I', whole.relation, whole.kept);
    execute format(
      'create table %I (like %I including comments including constraints including defaults)'
      ' partition by range (%I)', whole.relation, whole.kept, whole.instant);
    execute format('comment on table %I is %L', whole.relation, whole.comment);

    for month in execute format(
      'select distinct date_trunc(''month'', %I at time zone ''utc'') from %I order by 1',
      whole.instant, whole.kept)
    loop
      execute format(
        'create table %I partition of %I for values from (%L) to (%L)',
        whole.relation || to_char(month, '_yyyymm'), whole.relation,
        to_char(month, 'yyyy-mm-dd" 00:00+00"'),
        to_char(month + interval '1 month', 'yyyy-mm-dd" 00:00+00"'));
    end loop;
    execute format('insert into %I select * from %I', whole.relation, whole.kept);
    execute format('drop table %I', whole.kept);

    execute format('alter table %I add primary key (%s)', whole.relation, whole.key);
    for object in select unnest(former) as definition loop
      execute object.definition;
    end loop;
    for object in
      select privilege_type, is_grantable,
        case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end as grantee
      from aclexplode(whole.relacl) where grantee <> whole.relowner
    loop
      execute format(
        'grant %s on %I to %s %s', object.privilege_type, whole.relation, object.grantee,
        case when object.is_grantable then 'with grant option' else '' end);
    end loop;
    if pg_get_userbyid(whole.relowner) <> current_user then
      for object in select relid from pg_partition_tree(whole.relation::regclass) loop
        execute format(
          'alter table %s owner to %I', object.relid::regclass, pg_get_userbyid(whole.relowner));
      end loop;
    end if;
  end loop;
end
$$;

alter table anomaly_event add constraint event_id_time check (
  ('x' || left(replace(event_id::text, '-', ''), 12))::bit(48)::bigint
  = (extract(epoch from emitted_at) * 1000)::bigint) not valid;
alter table shadow_event add constraint event_id_time check (
  ('x' || left(replace(event_id::text, '-', ''), 12))::bit(48)::bigint
  = (extract(epoch from emitted_at) * 1000)::bigint) not valid;
