-- One feature row per asset, timeframe and minute, of feature pack v1.0. An amendment replaces the
-- row under the same key, guarded by its revision. Partitioned by timeframe, then by month; month
-- partitions are made when they are needed. The primary key serves one asset, brin a time range.

create table features_snapshot (
  -- widest columns first
  asset_uid bigint not null,
  exchange_ts timestamptz not null,
  ingest_ts timestamptz,
  ingest_lag_ms bigint,
  dropped_ticks bigint,
  duplicate_ticks bigint,
  book_staleness_ms bigint,
  clock_skew_ms bigint,
  dq_penalty bigint,
  illiq_penalty bigint,
  open double precision,
  high double precision,
  low double precision,
  close double precision,
  mid_close double precision,
  ret_s_30 double precision,
  ret_m_1 double precision,
  ret_m_5 double precision,
  ret_m_15 double precision,
  ret_abs_m_1 double precision,
  rv_m_1 double precision,
  atr_proxy_m_1 double precision,
  v_buy_m_1 double precision,
  v_sell_m_1 double precision,
  v_total_m_1 double precision,
  trade_count_m_1 bigint,
  cvd_delta_m_1 double precision,
  cvd_level double precision,
  cvd_slope_m_5 double precision,
  spread_mean_m_1 double precision,
  spread_p95_m_1 double precision,
  z_vol_m_1 double precision,
  z_ret_abs_m_1 double precision,
  z_spread_m_1 double precision,
  q_vol_m_1 double precision,
  q_ret_abs_m_1 double precision,
  b_mean_vol double precision,
  b_scale_vol double precision,
  b_mean_ret_abs double precision,
  b_scale_ret_abs double precision,
  b_mean_spread double precision,
  b_scale_spread double precision,
  rs_score_m_5 double precision,
  universe_rev bigint,
  pack_rev bigint,
  revision integer not null,
  warmup boolean,
  illiquidity_hit boolean,
  is_vol_spike_m_1 boolean,
  is_price_spike_up_m_1 boolean,
  is_price_spike_down_m_1 boolean,
  is_spread_stress_m_1 boolean,
  rs_incomplete boolean,
  is_in_universe boolean,
  is_hot boolean,
  symbol text not null,
  tf timeframe not null,
  dq_status dq_verdict,
  q_confidence text,
  feature_pack text,
  source text,
  dq_reasons text[],
  extras_json jsonb not null,
  primary key (asset_uid, tf, exchange_ts)
) partition by list (tf);

create table features_snapshot_1m partition of features_snapshot
  for values in ('1m') partition by range (exchange_ts);
create table features_snapshot_15m partition of features_snapshot
  for values in ('15m') partition by range (exchange_ts);
create table features_snapshot_1h partition of features_snapshot
  for values in ('1h') partition by range (exchange_ts);

create index features_snapshot_time on features_snapshot
  using brin (exchange_ts) with (pages_per_range = 32);

comment on table features_snapshot is 'feature rows, one per asset, timeframe and bar';
comment on column features_snapshot.asset_uid is
  'stable asset id of the venue; -1 is the market itself [id, identity]';
comment on column features_snapshot.exchange_ts is
  'close of the bar, which names it [utc, identity]';
comment on column features_snapshot.ingest_ts is
  'arrival clock when the minute was sealed (or amended); null: never [UTC, pack v1.0]';
comment on column features_snapshot.ingest_lag_ms is
  'ingest_ts - exchange_ts; null: never [ms, pack v1.0]';
comment on column features_snapshot.dropped_ticks is
  'invalid, duplicate, late and out-of-range messages since the previous seal; null: never [messages, pack v1.0]';
comment on column features_snapshot.duplicate_ticks is
  'the duplicates among dropped_ticks; null: never [messages, pack v1.0]';
comment on column features_snapshot.book_staleness_ms is
  'age at the close of the last message that carried or confirmed the top of book; null: no book yet [ms, pack v1.0]';
comment on column features_snapshot.clock_skew_ms is
  'smallest receive delay seen in the minute on the whole feed; null: nothing dated arrived [ms, pack v1.0]';
comment on column features_snapshot.dq_penalty is
  'book_staleness_ms near its limit; null: never [0|1, pack v1.0]';
comment on column features_snapshot.illiq_penalty is
  'near v_min or spread_cap; null: never [0|1, pack v1.0]';
comment on column features_snapshot.open is
  'first print; without prints the mid in force at the open; null: no print and no mid [quote, pack v1.0]';
comment on column features_snapshot.high is
  'highest print; without prints the highest mid; null: as open [quote, pack v1.0]';
comment on column features_snapshot.low is
  'lowest print; without prints the lowest mid; null: as open [quote, pack v1.0]';
comment on column features_snapshot.close is
  'last print; without prints the mid in force at the close; null: as open [quote, pack v1.0]';
comment on column features_snapshot.mid_close is
  '(best bid + best ask) / 2 in force at the close; null: a side is missing [quote, pack v1.0]';
comment on column features_snapshot.ret_s_30 is
  'mid_close against the mid in force 30 s before the close; null: either mid missing [ratio, pack v1.0]';
comment on column features_snapshot.ret_m_1 is
  'mid_close against the mid_close 1 minute before; null: either mid missing [ratio, pack v1.0]';
comment on column features_snapshot.ret_m_5 is
  'mid_close against the mid_close 5 minutes before; null: either mid missing [ratio, pack v1.0]';
comment on column features_snapshot.ret_m_15 is
  'mid_close against the mid_close 15 minutes before; null: either mid missing [ratio, pack v1.0]';
comment on column features_snapshot.ret_abs_m_1 is
  'abs(ret_m_1); null: ret_m_1 is [ratio, pack v1.0]';
comment on column features_snapshot.rv_m_1 is
  'sqrt of the sum of squared log changes of the mid, from the mid in force at the open; null: fewer than two mids [ratio, pack v1.0]';
comment on column features_snapshot.atr_proxy_m_1 is
  '(high - low) / mid_close; null: an input is [ratio, pack v1.0]';
comment on column features_snapshot.v_buy_m_1 is
  'sum of px * sz of taker buys; null: the taker split is unknown [quote, pack v1.0]';
comment on column features_snapshot.v_sell_m_1 is
  'sum of px * sz of taker sells; null: the taker split is unknown [quote, pack v1.0]';
comment on column features_snapshot.v_total_m_1 is
  'sum of px * sz; null: never; 0 without prints [quote, pack v1.0]';
comment on column features_snapshot.trade_count_m_1 is
  'number of prints; null: unknown in an imported bar [prints, pack v1.0]';
comment on column features_snapshot.cvd_delta_m_1 is
  'v_buy_m_1 - v_sell_m_1; null: an input is [quote, pack v1.0]';
comment on column features_snapshot.cvd_level is
  'running sum of cvd_delta_m_1, anchored at 00:00 UTC; null: cvd_delta_m_1 is [quote, pack v1.0]';
comment on column features_snapshot.cvd_slope_m_5 is
  'least-squares slope of the running sum of cvd_delta_m_1 over the last 5 bars; null: one of the 5 bars is missing [quote/min, pack v1.0]';
comment on column features_snapshot.spread_mean_m_1 is
  'time-weighted mean of ask - bid; null: no two-sided book in the minute [quote, pack v1.0]';
comment on column features_snapshot.spread_p95_m_1 is
  'time-weighted 95th percentile of ask - bid; null: as spread_mean_m_1 [quote, pack v1.0]';
comment on column features_snapshot.z_vol_m_1 is
  'baseline z of v_total_m_1; null: warm-up, stale, no prints [sigma, pack v1.0]';
comment on column features_snapshot.z_ret_abs_m_1 is
  'baseline z of ret_abs_m_1; null: warm-up, stale, ret out of bounds [sigma, pack v1.0]';
comment on column features_snapshot.z_spread_m_1 is
  'baseline z of spread_mean_m_1; null: warm-up, stale, spread <= 0 [sigma, pack v1.0]';
comment on column features_snapshot.q_vol_m_1 is
  'decayed mid-rank of v_total_m_1; null: as z_vol_m_1 [rank, pack v1.0]';
comment on column features_snapshot.q_ret_abs_m_1 is
  'decayed mid-rank of ret_abs_m_1; null: as z_ret_abs_m_1 [rank, pack v1.0]';
comment on column features_snapshot.b_mean_vol is
  'location of the transformed v_total_m_1; null: warm-up [log1p(quote), pack v1.0]';
comment on column features_snapshot.b_scale_vol is
  'scale of the transformed v_total_m_1; null: warm-up [log1p(quote), pack v1.0]';
comment on column features_snapshot.b_mean_ret_abs is
  'location of the transformed ret_abs_m_1; null: warm-up [ratio^(3/8), pack v1.0]';
comment on column features_snapshot.b_scale_ret_abs is
  'scale of the transformed ret_abs_m_1; null: warm-up [ratio^(3/8), pack v1.0]';
comment on column features_snapshot.b_mean_spread is
  'location of the transformed spread_mean_m_1; null: warm-up [log(quote), pack v1.0]';
comment on column features_snapshot.b_scale_spread is
  'scale of the transformed spread_mean_m_1; null: warm-up [log(quote), pack v1.0]';
comment on column features_snapshot.rs_score_m_5 is
  'w_ret * z_ret_abs_m_1 * sign(ret_m_5) + w_vol * z_vol_m_1 + w_oi * sign(oi_roc_m_5) * min(|z_oi_roc_m_5|, z_cap); null: never; NULL terms count 0 [score, pack v1.0]';
comment on column features_snapshot.universe_rev is
  'revision of the membership; null: never [revision, pack v1.0]';
comment on column features_snapshot.pack_rev is
  'revision of this pack; null: never [revision, pack v1.0]';
comment on column features_snapshot.revision is
  '0 when sealed, raised by each amendment inside the grace [count, identity]';
comment on column features_snapshot.warmup is
  'a z used by an enabled detector has fewer than 200 samples; null: never [bool, pack v1.0]';
comment on column features_snapshot.illiquidity_hit is
  'v_total_m_1 < v_min or spread_mean_m_1 > spread_cap; null: never [bool, pack v1.0]';
comment on column features_snapshot.is_vol_spike_m_1 is
  'trigger of spike.vol_spike_m_1 and not illiquid; null: z_vol_m_1 is [bool, pack v1.0]';
comment on column features_snapshot.is_price_spike_up_m_1 is
  'trigger of spike.price_spike_up_m_1 and not illiquid; null: an input is [bool, pack v1.0]';
comment on column features_snapshot.is_price_spike_down_m_1 is
  'trigger of spike.price_spike_down_m_1 and not illiquid; null: an input is [bool, pack v1.0]';
comment on column features_snapshot.is_spread_stress_m_1 is
  'trigger of shift.spread_stress_m_1 and not illiquid; null: z_spread_m_1 is [bool, pack v1.0]';
comment on column features_snapshot.rs_incomplete is
  'a term of rs_score_m_5 was NULL; null: never [bool, pack v1.0]';
comment on column features_snapshot.is_in_universe is
  'member by the universe policy in this minute; null: never [bool, pack v1.0]';
comment on column features_snapshot.is_hot is
  'on the hotlist in this minute; null: never [bool, pack v1.0]';
comment on column features_snapshot.symbol is
  'name of the asset at the venue [name, identity]';
comment on column features_snapshot.tf is
  'length of the bar [1m|15m|1h, identity]';
comment on column features_snapshot.dq_status is
  'worst verdict of the reasons; null: never [ok|partial|stale, pack v1.0]';
comment on column features_snapshot.q_confidence is
  'none below 200 samples of volume, low below 1000; null: never [none|low|ok, pack v1.0]';
comment on column features_snapshot.feature_pack is
  'this pack; null: never [version, pack v1.0]';
comment on column features_snapshot.source is
  'where the bar came from; null: never [ws|bars, pack v1.0]';
comment on column features_snapshot.dq_reasons is
  'why the verdict is what it is, in a fixed order; null: never; empty when ok [codes, pack v1.0]';
comment on column features_snapshot.extras_json is
  'what has no typed column, such as clamp bounds by z column [json, identity]';
