-- Baselines as they stand, so that a fresh store can start warm.

create table baseline_state (
  asset_uid bigint not null,
  updated_at timestamptz not null,
  n_samples bigint not null,
  mu double precision,
  sigma double precision,
  tf timeframe not null,
  feature_name text not null,
  feature_pack text not null,
  quantile_state bytea not null,
  primary key (asset_uid, tf, feature_name)
);

comment on table baseline_state is 'newest baseline of each asset, timeframe and feature';
comment on column baseline_state.asset_uid is 'stable asset id of the venue [id, identity]';
comment on column baseline_state.tf is 'length of the bar [1m|15m|1h, identity]';
comment on column baseline_state.feature_name is
  'column it is a baseline of, as in feature_registry [name, feature pack]';
comment on column baseline_state.feature_pack is
  'pack it was computed with [version, feature pack]';
comment on column baseline_state.updated_at is
  'close of the newest bar in it [utc, feature pack]';
comment on column baseline_state.n_samples is 'bars in it [samples, feature pack]';
comment on column baseline_state.mu is
  'location, of the value as transformed; null: no sample [transformed units, feature pack]';
comment on column baseline_state.sigma is
  'scale, of the value as transformed; null: no sample [transformed units, feature pack]';
comment on column baseline_state.quantile_state is
  'the whole baseline with its digest, as a recovery store has it [bytes, feature pack]';
