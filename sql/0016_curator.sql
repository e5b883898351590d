-- What the curator writes: its runs, what it found, what it proposes, and what a replay said.

create table curator_runs (
  started_at timestamptz not null,
  finished_at timestamptz,
  run_id text not null,
  inputs_hash text not null,
  config_hash text not null,
  notes text,
  primary key (run_id)
);

comment on table curator_runs is 'runs of the curator';
comment on column curator_runs.run_id is 'name of the run [id, curator]';
comment on column curator_runs.started_at is 'when it began [utc, curator]';
comment on column curator_runs.finished_at is 'when it ended; null: it has not [utc, curator]';
comment on column curator_runs.inputs_hash is 'hash of what it read [sha256, curator]';
comment on column curator_runs.config_hash is 'configuration it looked at [sha256, packs]';
comment on column curator_runs.notes is 'what else to know; null: nothing [words, curator]';

create table insights (
  ts timestamptz not null,
  insight_id text not null,
  scope text not null,
  kind text not null,
  author text not null,
  status text not null,
  evidence jsonb not null,
  recommendation jsonb,
  primary key (insight_id)
);

comment on table insights is 'what the curator found, append only';
comment on column insights.insight_id is 'name of the insight [id, curator]';
comment on column insights.ts is 'when it was found [utc, curator]';
comment on column insights.scope is 'what it is about, such as an asset or class [word, curator]';
comment on column insights.kind is 'monitor that found it [word, curator]';
comment on column insights.evidence is 'figures behind it [json, curator]';
comment on column insights.recommendation is 'what to do; null: nothing [json, curator]';
comment on column insights.author is 'who wrote it [name, curator]';
comment on column insights.status is 'where it stands [word, curator]';

create table config_proposals (
  created_at timestamptz not null,
  applied_at timestamptz,
  proposal_id text not null,
  target text not null,
  rationale text not null,
  status text not null,
  diff jsonb not null,
  primary key (proposal_id)
);

comment on table config_proposals is 'changes of packs that the curator proposes';
comment on column config_proposals.proposal_id is 'name of the proposal [id, curator]';
comment on column config_proposals.created_at is 'when it was made [utc, curator]';
comment on column config_proposals.target is
  'pack it would change, such as detector_pack [word, curator]';
comment on column config_proposals.diff is 'old and new by path [json, curator]';
comment on column config_proposals.rationale is 'why [words, curator]';
comment on column config_proposals.status is 'where it stands, such as proposed [word, curator]';
comment on column config_proposals.applied_at is
  'when it was applied; null: it was not [utc, curator]';

create table replay_results (
  passed boolean not null,
  proposal_id text not null,
  "window" text not null,
  metrics jsonb not null,
  primary key (proposal_id, "window")
);

comment on table replay_results is 'what a replay with a proposal gave';
comment on column replay_results.proposal_id is 'proposal that was tried [id, curator]';
comment on column replay_results."window" is 'span of the log that was replayed [span, curator]';
comment on column replay_results.metrics is
  'counts by class, severities, suppressions, run time [json, curator]';
comment on column replay_results.passed is 'it met the criteria [bool, curator]';
