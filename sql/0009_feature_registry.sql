-- Every column that a feature pack declares, in the pack's words. A program writes the columns of
-- its pack when it first opens a database; the pack is where they are changed.

create table feature_registry (
  added_at timestamptz not null,
  deprecated_at timestamptz,
  normalised boolean not null,
  feature_name text not null,
  pack text not null,
  status text not null constraint feature_status_word check (status in ('active', 'shadow')),
  pack_proposed text,
  family text not null,
  type text not null,
  units text not null,
  "window" text not null,
  timeframes text[] not null,
  formula text not null,
  inputs text[] not null,
  when_null text not null,
  notes text,
  primary key (feature_name, pack)
);

comment on table features_snapshot is
  'feature rows, one per asset, timeframe and bar; a column is null on the timeframes it is not on, see feature_registry.timeframes';
comment on table feature_registry is 'columns of the feature packs, active and on trial';
comment on column feature_registry.feature_name is
  'name of the column in features_snapshot, or in extras_json while on trial [name, feature pack]';
comment on column feature_registry.pack is 'version of the pack that declares it [version, feature pack]';
comment on column feature_registry.family is 'what the column is about [word, feature pack]';
comment on column feature_registry.type is 'type of its values [sql type, feature pack]';
comment on column feature_registry.units is 'unit of its values [unit, feature pack]';
comment on column feature_registry."window" is
  'what it looks back on, such as m_5 for five minutes [window, feature pack]';
comment on column feature_registry.timeframes is
  'timeframes whose rows carry it [1m|15m|1h, feature pack]';
comment on column feature_registry.formula is 'how it is computed [words, feature pack]';
comment on column feature_registry.inputs is
  'columns and feeds it is computed from [names, feature pack]';
comment on column feature_registry.when_null is 'when it is not known [words, feature pack]';
comment on column feature_registry.normalised is
  'a baseline of it gives a z [bool, feature pack]';
comment on column feature_registry.status is
  'a shadow column is on trial and has no column of its own [active|shadow, feature pack]';
comment on column feature_registry.pack_proposed is
  'pack in which a shadow column becomes active; null: it is active [version, feature pack]';
comment on column feature_registry.notes is
  'what else to know, such as its name in expressions; null: nothing [words, feature pack]';
comment on column feature_registry.added_at is
  'when a program first wrote it here [utc, storage]';
comment on column feature_registry.deprecated_at is
  'when a program first had this or a later pack without it; null: in use [utc, storage]';
