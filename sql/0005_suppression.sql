-- Candidates that were not published, each with the one reason why. Writing a minute again
-- replaces its lines by the same lines.

create table suppression (
  asset_uid bigint not null,
  exchange_ts timestamptz not null,
  revision integer not null,
  severity integer,
  symbol text not null,
  tf timeframe not null,
  detector_id text not null,
  reason text not null,
  primary key (asset_uid, tf, exchange_ts, revision, detector_id)
);

create index suppression_time on suppression
  using brin (exchange_ts) with (pages_per_range = 32);

comment on table suppression is 'candidates that were not published';
comment on column suppression.asset_uid is
  'stable asset id of the venue; -1 is the market itself [id, identity]';
comment on column suppression.exchange_ts is 'close of the bar of the candidate [utc, identity]';
comment on column suppression.revision is 'revision of the row it was found on [count, identity]';
comment on column suppression.symbol is 'name of the asset at the venue [name, identity]';
comment on column suppression.tf is 'length of the bar [1m|15m|1h, identity]';
comment on column suppression.detector_id is 'detector whose trigger held [id, detector pack]';
comment on column suppression.reason is 'first rule that forbade publication [code, detector pack]';
comment on column suppression.severity is
  'severity it would have had, null where it was not scored [score 0-100, detector pack]';
