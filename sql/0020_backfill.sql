-- The venue's candles beside the rows that were built from ticks, and what holes have cost. Candles
-- have a table of their own, without baselines and scores: they never enter a row, a rollup, a
-- baseline or an event.

create table backfill_job (
  started_at timestamptz not null,
  finished_at timestamptz,
  since timestamptz not null,
  until timestamptz not null,
  runs bigint not null,
  requests bigint not null,
  minutes_asked bigint not null,
  minutes_stored bigint not null,
  minutes_missing bigint not null,
  minutes_compared bigint not null,
  minutes_divergent bigint not null,
  backfill_job_id text not null,
  kind text not null constraint backfill_job_kind check (kind in ('bootstrap', 'repair')),
  status text not null,
  reason text,
  coins text[] not null,
  rejected jsonb not null,
  divergent jsonb not null,
  primary key (backfill_job_id)
);

comment on table backfill_job is 'what was asked of the venue''s candles, and what came of it';
comment on column backfill_job.backfill_job_id is
  'digest of what was asked: asking the same again goes on with the same job [id, backfill]';
comment on column backfill_job.kind is
  'seeds a span, or stands beside minutes that a gap made stale [bootstrap|repair, backfill]';
comment on column backfill_job.since is 'close of the minute before the first asked [utc, operator]';
comment on column backfill_job.until is 'close of the last minute asked [utc, operator]';
comment on column backfill_job.coins is 'assets asked for, by the venue''s names [names, operator]';
comment on column backfill_job.status is
  'done: every minute is stored; partial: the venue has not given some; failed: it stopped, see reason [running|done|partial|failed|interrupted, backfill]';
comment on column backfill_job.reason is 'why it is not done; null: it is, or runs [text, backfill]';
comment on column backfill_job.started_at is 'start of its first run [utc, wall clock]';
comment on column backfill_job.finished_at is
  'end of its last run, null while it runs [utc, wall clock]';
comment on column backfill_job.runs is 'how often it was started [runs, backfill]';
comment on column backfill_job.requests is 'requests to the venue, all runs [requests, backfill]';
comment on column backfill_job.minutes_asked is 'asset-minutes asked for [minutes, operator]';
comment on column backfill_job.minutes_stored is
  'of them those in candle_bar, from whichever job [minutes, backfill]';
comment on column backfill_job.minutes_missing is
  'of them those the venue has not given [minutes, backfill]';
comment on column backfill_job.rejected is
  'entries of the venue that were not stored, by reason, all runs [json, backfill]';
comment on column backfill_job.minutes_compared is
  'stored minutes that were also built whole from ticks [minutes, backfill]';
comment on column backfill_job.minutes_divergent is
  'of them those that differ beyond the tolerance [minutes, backfill]';
comment on column backfill_job.divergent is 'how many of them differ, by column [json, backfill]';

create table backfill_audit (
  noted_at timestamptz not null,
  run bigint not null,
  backfill_job_id text not null,
  action text not null,
  detail jsonb not null,
  primary key (backfill_job_id, run, action)
);

comment on table backfill_audit is 'starts and ends of backfill jobs; insert only';
comment on column backfill_audit.backfill_job_id is 'job [id, backfill]';
comment on column backfill_audit.run is 'number of its run, from 1 [runs, backfill]';
comment on column backfill_audit.noted_at is 'when it happened [utc, wall clock]';
comment on column backfill_audit.action is
  'started, or the status it ended with [word, backfill]';
comment on column backfill_audit.detail is 'the columns of the job at that time [json, backfill]';

create table candle_bar (
  asset_uid bigint not null,
  exchange_ts timestamptz not null,
  stored_at timestamptz not null,
  open double precision not null,
  high double precision not null,
  low double precision not null,
  close double precision not null,
  volume_base double precision not null,
  trade_count bigint not null,
  symbol text not null,
  tf timeframe not null,
  source text not null,
  backfill_job_id text not null,
  primary key (asset_uid, tf, exchange_ts)
);

comment on table candle_bar is
  'one-minute candles of the venue, insert only; a row of features_snapshot is authoritative';
comment on column candle_bar.asset_uid is 'stable asset id of the venue [id, identity]';
comment on column candle_bar.symbol is 'name it was asked by [name, identity]';
comment on column candle_bar.tf is 'length of the bar, 1m [1m|15m|1h, identity]';
comment on column candle_bar.exchange_ts is 'close of the minute, which names it [utc, identity]';
comment on column candle_bar.open is 'first print; without any the last close [quote, venue]';
comment on column candle_bar.high is 'highest print [quote, venue]';
comment on column candle_bar.low is 'lowest print [quote, venue]';
comment on column candle_bar.close is 'last print [quote, venue]';
comment on column candle_bar.volume_base is
  'volume; the venue gives it in coins and not by side [base, venue]';
comment on column candle_bar.trade_count is 'prints [trades, venue]';
comment on column candle_bar.source is
  'candle_snapshot of a bootstrap, backfill of a repair [word, backfill]';
comment on column candle_bar.backfill_job_id is 'job that asked for it [id, backfill]';
comment on column candle_bar.stored_at is 'when it was stored [utc, wall clock]';

create table gap_reconciliation (
  started_at timestamptz not null,
  asset_uid bigint not null,
  reconciled_at timestamptz not null,
  minutes bigint not null,
  minutes_without_candle bigint not null,
  minutes_without_row bigint not null,
  trades_venue bigint not null,
  trades_missing bigint not null,
  trades_surplus bigint not null,
  volume_venue_base double precision not null,
  volume_missing_base_min double precision not null,
  volume_missing_base_max double precision not null,
  volume_missing_quote double precision not null,
  low_missed double precision,
  high_missed double precision,
  feed text not null,
  cause text not null,
  symbol text not null,
  primary key (feed, started_at, cause, asset_uid)
);

comment on table gap_reconciliation is
  'what a gap has cost an asset: candles less the rows built from ticks, over the minutes of the gap';
comment on column gap_reconciliation.feed is 'as in gap [name, tick log]';
comment on column gap_reconciliation.started_at is 'as in gap [utc, tick log]';
comment on column gap_reconciliation.cause is 'as in gap [code, tick log]';
comment on column gap_reconciliation.asset_uid is
  'stable asset id of the venue [id, identity]';
comment on column gap_reconciliation.symbol is 'its name [name, identity]';
comment on column gap_reconciliation.reconciled_at is 'when this was found [utc, wall clock]';
comment on column gap_reconciliation.minutes is
  'minutes that overlap the gap; one that several gaps share counts for the first [minutes, gap ledger]';
comment on column gap_reconciliation.minutes_without_candle is
  'of them those without a candle, about which nothing is known [minutes, gap ledger]';
comment on column gap_reconciliation.minutes_without_row is
  'of them those without a row; what the venue had is missing [minutes, gap ledger]';
comment on column gap_reconciliation.trades_venue is
  'prints of the candles [trades, gap ledger]';
comment on column gap_reconciliation.trades_missing is
  'of them those the rows lack [trades, gap ledger]';
comment on column gap_reconciliation.trades_surplus is
  'prints of the rows beyond the candles'', 0 unless the venue counts otherwise [trades, gap ledger]';
comment on column gap_reconciliation.volume_venue_base is
  'volume of the candles [base, gap ledger]';
comment on column gap_reconciliation.volume_missing_base_min is
  'volume that is missing at least: rows hold quote volume and a range of prices [base, gap ledger]';
comment on column gap_reconciliation.volume_missing_base_max is
  'volume that is missing at most [base, gap ledger]';
comment on column gap_reconciliation.volume_missing_quote is
  'estimate: the middle of the two at the middle of each candle''s range [quote, gap ledger]';
comment on column gap_reconciliation.low_missed is
  'lowest price of the candles that the rows did not reach; null: none [quote, gap ledger]';
comment on column gap_reconciliation.high_missed is
  'highest price of the candles that the rows did not reach; null: none [quote, gap ledger]';
