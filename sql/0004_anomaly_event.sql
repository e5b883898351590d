-- Published events, append-only. payload_bytes is what consumers received; payload is the same
-- object for queries; the other columns echo it. The index over asset, class, timeframe, emission
-- and subtype is not unique: an amended minute or another configuration is another event.

create table anomaly_event (
  event_id uuid not null,
  emitted_at timestamptz not null,
  exchange_ts timestamptz not null,
  asset_uid bigint not null,
  universe_rev bigint,
  universe_policy_rev bigint,
  source_lag_ms bigint,
  clock_skew_ms bigint,
  severity integer not null constraint severity_range check (severity between 0 and 100),
  is_in_universe boolean not null,
  is_hot boolean not null,
  replay_of boolean not null,
  symbol text not null,
  tf timeframe not null,
  class event_class not null,
  subtype text not null,
  feature_pack text not null,
  detector_pack text not null,
  config_hash text not null,
  git_commit text,
  payload_bytes bytea not null,
  payload jsonb not null,
  primary key (event_id)
);

create index anomaly_event_asset on anomaly_event (asset_uid, exchange_ts desc);
create index anomaly_event_class on anomaly_event (class, subtype, emitted_at desc);
create index anomaly_event_emission on anomaly_event (asset_uid, class, tf, emitted_at, subtype);
create index anomaly_event_payload on anomaly_event using gin (payload jsonb_path_ops);

comment on table anomaly_event is 'published events, insert only';
comment on column anomaly_event.event_id is
  'uuid v7: time of emission and a hash of the event, so a replay has the same [id, contract 0.1]';
comment on column anomaly_event.emitted_at is 'arrival clock at emission [utc, contract 0.1]';
comment on column anomaly_event.exchange_ts is
  'close of the bar the event is about [utc, contract 0.1]';
comment on column anomaly_event.asset_uid is
  'stable asset id of the venue; -1 is the market itself [id, contract 0.1]';
comment on column anomaly_event.symbol is 'name of the asset at the venue [name, contract 0.1]';
comment on column anomaly_event.tf is 'length of the bar [1m|15m|1h, contract 0.1]';
comment on column anomaly_event.class is 'family of the detector [word, contract 0.1]';
comment on column anomaly_event.subtype is 'detector within its class [word, contract 0.1]';
comment on column anomaly_event.severity is 'how strong, 0 to 100 [score, contract 0.1]';
comment on column anomaly_event.is_in_universe is
  'membership.is_in_universe of the payload [bool, contract 0.1]';
comment on column anomaly_event.is_hot is 'membership.is_hot of the payload [bool, contract 0.1]';
comment on column anomaly_event.universe_rev is
  'membership.universe_rev of the payload [revision, contract 0.1]';
comment on column anomaly_event.feature_pack is
  'provenance.feature_pack of the payload [version, contract 0.1]';
comment on column anomaly_event.detector_pack is
  'provenance.detector_pack of the payload [version, contract 0.1]';
comment on column anomaly_event.config_hash is
  'provenance.config_hash of the payload [sha256, contract 0.1]';
comment on column anomaly_event.git_commit is
  'provenance.git_commit of the payload [commit, contract 0.1]';
comment on column anomaly_event.universe_policy_rev is
  'provenance.universe_policy_rev of the payload [revision, contract 0.1]';
comment on column anomaly_event.source_lag_ms is
  'provenance.source_lag_ms of the payload [ms, contract 0.1]';
comment on column anomaly_event.clock_skew_ms is
  'provenance.clock_skew_ms of the payload [ms, contract 0.1]';
comment on column anomaly_event.replay_of is
  'written by a replay; not part of the canonical payload [bool, storage]';
comment on column anomaly_event.payload_bytes is
  'exact bytes of the published event [canonical json, contract 0.1]';
comment on column anomaly_event.payload is 'the same object, for queries [json, contract 0.1]';
