-- What a program runs with. It writes its packs when it first opens a database; the packs are where
-- they are changed.

create table detector_registry (
  added_at timestamptz not null,
  deprecated_at timestamptz,
  cooldown_sec double precision not null,
  half_life_sec double precision not null,
  publish_threshold double precision not null,
  enabled boolean not null,
  inferred boolean not null,
  needs_frame boolean not null,
  detector_id text not null,
  version text not null,
  class event_class not null,
  subtype text not null,
  mode text not null,
  timeframes text[] not null,
  inputs text[] not null,
  preconditions text[] not null,
  required text[] not null,
  trigger text not null,
  primary_score text not null,
  secondary_score text,
  payload text[] not null,
  description text not null,
  severity_weights jsonb not null,
  tier_triggers jsonb not null,
  primary key (detector_id, version)
);

comment on table detector_registry is 'detectors of the packs, with what they left out filled in';
comment on column detector_registry.detector_id is 'class, dot and subtype [id, detector pack]';
comment on column detector_registry.version is
  'version of the pack that has it [version, detector pack]';
comment on column detector_registry.class is 'family of the detector [word, detector pack]';
comment on column detector_registry.subtype is 'detector within its class [word, detector pack]';
comment on column detector_registry.mode is 'who hears it [off|shadow|canary|live, detector pack]';
comment on column detector_registry.enabled is 'it is evaluated [bool, detector pack]';
comment on column detector_registry.inferred is
  'it rests on what cannot be observed directly [bool, detector pack]';
comment on column detector_registry.needs_frame is
  'it reads a column of the market frame [bool, detector pack]';
comment on column detector_registry.timeframes is
  'timeframes whose rows it reads [1m|15m|1h, detector pack]';
comment on column detector_registry.inputs is 'columns it looks at [names, detector pack]';
comment on column detector_registry.preconditions is
  'what must hold beside the trigger [expressions, detector pack]';
comment on column detector_registry.required is
  'columns without which it is silent [names, detector pack]';
comment on column detector_registry.trigger is 'what makes it fire [expression, detector pack]';
comment on column detector_registry.tier_triggers is
  'the trigger in a liquidity tier that has another threshold [json of expressions, detector pack]';
comment on column detector_registry.primary_score is
  'first term of the severity [expression, detector pack]';
comment on column detector_registry.secondary_score is
  'second term of the severity; null: counts 0 [expression, detector pack]';
comment on column detector_registry.severity_weights is
  'w1, w2, w3, a and b of the severity [json, detector pack]';
comment on column detector_registry.publish_threshold is
  'severity from which it is published [score 0-100, detector pack]';
comment on column detector_registry.cooldown_sec is
  'time after an event without another, unless it grows [s, detector pack]';
comment on column detector_registry.half_life_sec is
  'time in which novelty halves or recovers by half [s, detector pack]';
comment on column detector_registry.payload is
  'columns its events carry [names, detector pack]';
comment on column detector_registry.description is 'what it is for [words, detector pack]';
comment on column detector_registry.added_at is
  'when a program first wrote it here [utc, storage]';
comment on column detector_registry.deprecated_at is
  'when a program first had this or a later pack without it; null: in use [utc, storage]';

create table universe_registry (
  added_at timestamptz not null,
  universe_policy_rev bigint not null,
  policy jsonb not null,
  primary key (universe_policy_rev)
);

comment on table universe_registry is 'universe policies';
comment on column universe_registry.universe_policy_rev is
  'revision of the policy [revision, universe policy]';
comment on column universe_registry.policy is
  'the policy, what it left out filled in [json, universe policy]';
comment on column universe_registry.added_at is
  'when a program first wrote it here [utc, storage]';

create table config_audit (
  changed_at timestamptz not null,
  universe_policy_rev bigint not null,
  config_hash text not null,
  feature_pack text not null,
  detector_pack text not null,
  changed_by text not null,
  environment text,
  rationale text,
  proposal_id text,
  diff jsonb not null,
  primary key (changed_at, config_hash)
);

comment on table config_audit is
  'which configuration ran from when on: a line when it is another than before';
comment on column config_audit.changed_at is
  'when a program first ran with it after another [utc, storage]';
comment on column config_audit.config_hash is 'hash of the packs, as in events [sha256, packs]';
comment on column config_audit.feature_pack is 'version of the pack [version, packs]';
comment on column config_audit.detector_pack is 'version of the pack [version, packs]';
comment on column config_audit.universe_policy_rev is 'revision of the policy [revision, packs]';
comment on column config_audit.changed_by is 'user of the database [name, storage]';
comment on column config_audit.environment is
  'where it runs, such as staging; null: not told [word, operator]';
comment on column config_audit.rationale is 'why; null: not told [words, operator]';
comment on column config_audit.proposal_id is
  'proposal that was applied; null: none [id, curator]';
comment on column config_audit.diff is
  'what differs from the line before: old and new by name [json, packs]';
