-- One cross-asset frame per timeframe and minute. A refolded frame replaces it, guarded by revision.

create table market_snapshot (
  exchange_ts timestamptz not null,
  leader_uid bigint,
  shock_count_5s bigint,
  eligible_count bigint,
  excluded_count bigint,
  universe_size bigint,
  universe_rev bigint,
  time_to_next_funding_sec bigint,
  dominance_share double precision,
  return_dispersion_m_5 double precision,
  vol_dispersion_m_5 double precision,
  revision integer not null,
  approx boolean,
  tf timeframe not null,
  leader text,
  dq_status dq_verdict,
  dq_reasons text[],
  rs_top jsonb,
  rs_bottom jsonb,
  primary key (tf, exchange_ts)
);

comment on table market_snapshot is 'market frames, one per timeframe and bar';
comment on column market_snapshot.exchange_ts is 'close of the bar, which names it [utc, identity]';
comment on column market_snapshot.revision is
  '0 when sealed, raised when an amended row refolds the frame [count, identity]';
comment on column market_snapshot.tf is 'length of the bar [1m|15m|1h, identity]';
comment on column market_snapshot.leader is 'symbol that leads the flow [name, frame]';
comment on column market_snapshot.leader_uid is 'asset id of the leader [id, frame]';
comment on column market_snapshot.dominance_share is
  'share of the leader in the dollar volume of the covered assets over 5 minutes [ratio, frame]';
comment on column market_snapshot.shock_count_5s is
  'covered symbols with a spike-class candidate in this minute [symbols, frame]';
comment on column market_snapshot.approx is
  'shock_count_5s comes from flags because rows entered without candidates [bool, frame]';
comment on column market_snapshot.rs_top is
  'symbols of the highest rs_score_m_5, best first [list of names, frame]';
comment on column market_snapshot.rs_bottom is
  'symbols of the lowest rs_score_m_5, worst first [list of names, frame]';
comment on column market_snapshot.return_dispersion_m_5 is
  'standard deviation of ret_m_5 across eligible assets [ratio, frame]';
comment on column market_snapshot.vol_dispersion_m_5 is
  'standard deviation of z_vol_m_1 across eligible assets [sigma, frame]';
comment on column market_snapshot.eligible_count is
  'covered assets whose row is good enough for the aggregates [assets, frame]';
comment on column market_snapshot.excluded_count is
  'covered assets left out for their data quality [assets, frame]';
comment on column market_snapshot.universe_size is 'members of the universe [assets, frame]';
comment on column market_snapshot.universe_rev is 'revision of the membership [revision, frame]';
comment on column market_snapshot.time_to_next_funding_sec is
  'time from the close to the next hourly funding [s, frame]';
comment on column market_snapshot.dq_status is 'verdict on the frame itself [ok|partial|stale, frame]';
comment on column market_snapshot.dq_reasons is
  'why the verdict is what it is, in a fixed order [codes, frame]';
