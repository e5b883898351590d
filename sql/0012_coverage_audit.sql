-- Why the assets of a minute are listened to: membership, hotlist and liquidity tiers. The moves are
-- those of the audit topic; writing a minute again replaces its lines by the same lines.

create table universe_audit (
  exchange_ts timestamptz not null,
  revision bigint not null,
  added bigint[] not null,
  removed bigint[] not null,
  missing_oi bigint[] not null,
  reasons jsonb not null,
  primary key (exchange_ts)
);

comment on table universe_audit is 'revisions of the membership';
comment on column universe_audit.exchange_ts is
  'close of the minute in which it changed [utc, universe policy]';
comment on column universe_audit.revision is
  'universe_rev from here on; starts at 1 in a run without its recovery store [revision, universe policy]';
comment on column universe_audit.added is 'assets that entered [ids, universe policy]';
comment on column universe_audit.removed is 'assets that left [ids, universe policy]';
comment on column universe_audit.missing_oi is
  'of the members and those that moved, the assets ranked by volume alone [ids, universe policy]';
comment on column universe_audit.reasons is
  'entry, exit, delisted or hard_exit by asset_uid as text [json, universe policy]';

create table universe_deferral (
  exchange_ts timestamptz not null,
  asset_uid bigint not null,
  primary key (exchange_ts, asset_uid)
);

comment on table universe_deferral is 'entries and exits that the churn cap put off';
comment on column universe_deferral.exchange_ts is
  'close of the minute in which it began to wait [utc, universe policy]';
comment on column universe_deferral.asset_uid is 'asset that waits [id, universe policy]';

create table hotlist_move (
  exchange_ts timestamptz not null,
  asset_uid bigint not null,
  started_at timestamptz not null,
  expires_at timestamptz not null,
  move text not null constraint hotlist_move_word check (move in ('added', 'prolonged', 'expired')),
  hot_reason text not null,
  primary key (asset_uid, exchange_ts, move)
);

create index hotlist_move_time on hotlist_move
  using brin (exchange_ts) with (pages_per_range = 32);

comment on table hotlist_move is 'changes of the hotlist';
comment on column hotlist_move.exchange_ts is 'close of the minute of the change [utc, universe policy]';
comment on column hotlist_move.asset_uid is 'asset [id, universe policy]';
comment on column hotlist_move.move is
  'what happened [added|prolonged|expired, universe policy]';
comment on column hotlist_move.hot_reason is
  'subtype of the event that set the end [word, universe policy]';
comment on column hotlist_move.started_at is 'when the entry began [utc, universe policy]';
comment on column hotlist_move.expires_at is
  'when it ends, after the move; of one that expired, when it ended [utc, universe policy]';

create table hotlist_state (
  asset_uid bigint not null,
  exchange_ts timestamptz not null,
  hot_started_at timestamptz not null,
  hot_expires_at timestamptz not null,
  hot_reason text not null,
  primary key (asset_uid)
);

comment on table hotlist_state is
  'newest entry of each asset in the hotlist; it is hot while hot_expires_at is ahead';
comment on column hotlist_state.asset_uid is 'asset [id, universe policy]';
comment on column hotlist_state.exchange_ts is
  'close of the minute of its newest move [utc, universe policy]';
comment on column hotlist_state.hot_reason is
  'subtype of the event that set the end [word, universe policy]';
comment on column hotlist_state.hot_started_at is 'when the entry began [utc, universe policy]';
comment on column hotlist_state.hot_expires_at is 'when it ends [utc, universe policy]';

create table tier_move (
  exchange_ts timestamptz not null,
  asset_uid bigint not null,
  former text not null,
  tier text not null,
  primary key (asset_uid, exchange_ts)
);

comment on table tier_move is 'changes of liquidity tier';
comment on column tier_move.exchange_ts is 'close of the minute of the change [utc, universe policy]';
comment on column tier_move.asset_uid is 'asset [id, universe policy]';
comment on column tier_move.former is 'tier it left [top|mid|tail, universe policy]';
comment on column tier_move.tier is 'tier it is in from here on [top|mid|tail, universe policy]';
