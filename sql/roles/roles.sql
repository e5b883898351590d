-- Roles with least privilege, for the schema that comes first on the search path. They cannot log
-- in: users are made members of what they need. May be run any number of times; what a role had in
-- the schema is taken away first, so that this file is what it may do. Run it after migrations:
--
--   psql "$URL" -1 -v ON_ERROR_STOP=1 -c 'set search_path to public' -f roles.sql
--
-- alpha_ops owns the tables: it alone migrates, makes and drops partitions, and writes registries.

do $$
declare
  role text;
  object record;
begin
  foreach role in array array['alpha_ingest', 'alpha_builder', 'alpha_detector', 'alpha_curator',
                              'alpha_reader', 'alpha_ops'] loop
    if to_regrole(role) is null then
      execute format('create role %I nologin', role);
    end if;
    execute format('revoke all on all tables in schema %I from %I', current_schema(), role);
    execute format('revoke all on schema %I from %I', current_schema(), role);
    execute format('grant usage on schema %I to %I', current_schema(), role);
  end loop;

  execute format('revoke create on schema %I from public', current_schema());
  execute format('grant create on schema %I to alpha_ops', current_schema());
  execute format('grant create, temporary on database %I to alpha_ops', current_database());
  execute format('grant temporary on database %I to alpha_ingest, alpha_builder, alpha_detector',
                 current_database());

  for object in
    select c.oid::regclass as name from pg_class c
    where c.relnamespace = current_schema()::regnamespace and c.relkind in ('r', 'p')
    and c.relowner <> 'alpha_ops'::regrole
  loop
    execute format('alter table %s owner to alpha_ops', object.name);
  end loop;
  for object in
    select t.oid::regtype as name from pg_type t
    where t.typnamespace = current_schema()::regnamespace and t.typtype = 'd'
    and t.typowner <> 'alpha_ops'::regrole
  loop
    execute format('alter domain %s owner to alpha_ops', object.name);
  end loop;
  execute format('grant all on all tables in schema %I to alpha_ops', current_schema());
end
$$;

-- Every program finds out whether the schema is the one it was written for.
grant select on schema_migration to
  alpha_ingest, alpha_builder, alpha_detector, alpha_curator, alpha_reader;

-- What the recorder knows: where the recording has holes. And what the venue says of them later:
-- candles and audits are never changed; the rows are read to find what they lack.
grant select, insert, update on gap, backfill_job, gap_reconciliation to alpha_ingest;
grant select, insert on candle_bar, backfill_audit to alpha_ingest;
grant select on features_snapshot to alpha_ingest;

-- Rows, frames and why assets are listened to, and the rows of them that the tables refuse; reads
-- what it is configured with.
grant select, insert, update on
  features_snapshot, market_snapshot, baseline_state,
  universe_audit, universe_deferral, hotlist_move, hotlist_state, tier_move
to alpha_builder;
grant select, insert on dead_letter to alpha_builder;
grant select on gap, feature_registry, detector_registry, universe_registry, config_audit
to alpha_builder;

-- Events, which never change, and what was held back.
grant select, insert on anomaly_event, shadow_event, dead_letter to alpha_detector;
grant select, insert, update on suppression to alpha_detector;
grant select on
  features_snapshot, market_snapshot, baseline_state,
  universe_audit, universe_deferral, hotlist_move, hotlist_state, tier_move,
  gap, feature_registry, detector_registry, universe_registry, config_audit
to alpha_detector;

-- Reads everything; adds, and says where things stand, but takes nothing back and publishes nothing.
grant select on
  features_snapshot, market_snapshot, anomaly_event, shadow_event, suppression, dead_letter,
  gap, baseline_state, candle_bar, backfill_job, backfill_audit, gap_reconciliation,
  universe_audit, universe_deferral, hotlist_move, hotlist_state, tier_move,
  feature_registry, detector_registry, universe_registry, config_audit,
  curator_runs, insights, config_proposals, replay_results
to alpha_curator, alpha_reader;
grant insert on curator_runs, insights, config_proposals, replay_results to alpha_curator;
grant update (finished_at, notes) on curator_runs to alpha_curator;
grant update (status) on insights to alpha_curator;
grant update (status, applied_at) on config_proposals to alpha_curator;
