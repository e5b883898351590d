-- Columns of feature pack v1.0 that the files before this one have not, and comments whose
-- words have changed. Printed by `alpha packs ddl`.
alter table features_snapshot
  add column if not exists oi_staleness_ms bigint,
  add column if not exists minutes_not_ok bigint,
  add column if not exists minutes_missing bigint,
  add column if not exists ret_h_1 double precision,
  add column if not exists ret_abs_m_15 double precision,
  add column if not exists ret_abs_h_1 double precision,
  add column if not exists ret_abs_m_5 double precision,
  add column if not exists rv_m_15 double precision,
  add column if not exists rv_h_1 double precision,
  add column if not exists atr_proxy_m_15 double precision,
  add column if not exists atr_proxy_h_1 double precision,
  add column if not exists v_buy_m_15 double precision,
  add column if not exists v_buy_h_1 double precision,
  add column if not exists v_sell_m_15 double precision,
  add column if not exists v_sell_h_1 double precision,
  add column if not exists v_total_m_15 double precision,
  add column if not exists v_total_h_1 double precision,
  add column if not exists trade_count_m_15 bigint,
  add column if not exists trade_count_h_1 bigint,
  add column if not exists cvd_delta_m_15 double precision,
  add column if not exists cvd_delta_h_1 double precision,
  add column if not exists cvd_delta_m_5 double precision,
  add column if not exists cvd_delta_m_75 double precision,
  add column if not exists cvd_delta_h_5 double precision,
  add column if not exists cvd_slope_m_75 double precision,
  add column if not exists cvd_slope_h_5 double precision,
  add column if not exists oi_open double precision,
  add column if not exists oi_close double precision,
  add column if not exists oi_min double precision,
  add column if not exists oi_max double precision,
  add column if not exists oi_close_base double precision,
  add column if not exists oi_delta_m_5 double precision,
  add column if not exists oi_delta_m_15 double precision,
  add column if not exists oi_delta_h_1 double precision,
  add column if not exists oi_roc_m_5 double precision,
  add column if not exists oi_roc_m_15 double precision,
  add column if not exists oi_roc_h_1 double precision,
  add column if not exists liq_count_m_5 bigint,
  add column if not exists liq_count_m_15 bigint,
  add column if not exists liq_count_h_1 bigint,
  add column if not exists liq_notional_m_5 double precision,
  add column if not exists liq_notional_m_15 double precision,
  add column if not exists liq_notional_h_1 double precision,
  add column if not exists mark_close double precision,
  add column if not exists funding_h_1 double precision,
  add column if not exists dfunding_h_1 double precision,
  add column if not exists basis_bp_m_1 double precision,
  add column if not exists basis_bp_m_15 double precision,
  add column if not exists basis_bp_h_1 double precision,
  add column if not exists basis_bp_m_5 double precision,
  add column if not exists time_to_next_funding_sec bigint,
  add column if not exists spread_mean_m_15 double precision,
  add column if not exists spread_mean_h_1 double precision,
  add column if not exists spread_p95_m_15 double precision,
  add column if not exists spread_p95_h_1 double precision,
  add column if not exists obi_top5_mean_m_1 double precision,
  add column if not exists obi_top5_mean_m_15 double precision,
  add column if not exists obi_top5_mean_h_1 double precision,
  add column if not exists depth_top5_quote_median_m_1 double precision,
  add column if not exists depth_top5_quote_median_m_15 double precision,
  add column if not exists depth_top5_quote_median_h_1 double precision,
  add column if not exists z_vol_m_15 double precision,
  add column if not exists z_vol_h_1 double precision,
  add column if not exists z_ret_abs_m_15 double precision,
  add column if not exists z_ret_abs_h_1 double precision,
  add column if not exists z_ret_abs_m_5 double precision,
  add column if not exists z_spread_m_15 double precision,
  add column if not exists z_spread_h_1 double precision,
  add column if not exists z_oi_roc_m_5 double precision,
  add column if not exists z_oi_roc_m_15 double precision,
  add column if not exists z_oi_roc_h_1 double precision,
  add column if not exists z_basis_m_5 double precision,
  add column if not exists z_basis_m_15 double precision,
  add column if not exists z_basis_h_1 double precision,
  add column if not exists z_cvd_delta_m_5 double precision,
  add column if not exists z_cvd_slope_m_5 double precision,
  add column if not exists q_vol_m_15 double precision,
  add column if not exists q_vol_h_1 double precision,
  add column if not exists q_ret_abs_m_15 double precision,
  add column if not exists q_ret_abs_h_1 double precision,
  add column if not exists q_oi_roc_m_5 double precision,
  add column if not exists q_oi_roc_m_15 double precision,
  add column if not exists q_oi_roc_h_1 double precision,
  add column if not exists b_mean_oi_roc double precision,
  add column if not exists b_scale_oi_roc double precision,
  add column if not exists b_mean_basis double precision,
  add column if not exists b_scale_basis double precision,
  add column if not exists b_divisor_oi_roc double precision,
  add column if not exists b_divisor_basis double precision,
  add column if not exists b_divisor_cvd double precision,
  add column if not exists b_divisor_cvd_slope double precision,
  add column if not exists b_divisor_dfunding double precision,
  add column if not exists is_vol_spike_m_15 boolean,
  add column if not exists is_vol_spike_h_1 boolean,
  add column if not exists is_price_spike_up_m_15 boolean,
  add column if not exists is_price_spike_up_h_1 boolean,
  add column if not exists is_price_spike_down_m_15 boolean,
  add column if not exists is_price_spike_down_h_1 boolean,
  add column if not exists is_oi_spike_up_m_5 boolean,
  add column if not exists is_oi_spike_up_m_15 boolean,
  add column if not exists is_oi_spike_up_h_1 boolean,
  add column if not exists is_oi_spike_down_m_5 boolean,
  add column if not exists is_oi_spike_down_m_15 boolean,
  add column if not exists is_oi_spike_down_h_1 boolean,
  add column if not exists is_spread_stress_m_15 boolean,
  add column if not exists is_spread_stress_h_1 boolean,
  add column if not exists is_liq_cluster_m_5 boolean,
  add column if not exists is_liq_cluster_m_15 boolean,
  add column if not exists is_liq_cluster_h_1 boolean,
  add column if not exists rs_score_m_15 double precision,
  add column if not exists rs_score_h_1 double precision;
comment on column features_snapshot.oi_staleness_ms is
  'age at the close of the newest open-interest sample; null: not tracked, or no sample yet [ms, pack v1.0]';
comment on column features_snapshot.clock_skew_ms is
  'third-smallest receive delay of the minute on the whole feed; null: nothing dated arrived [ms, pack v1.0]';
comment on column features_snapshot.minutes_not_ok is
  'minutes of the bar that are not ok, forgiven ones left out; null: on 1m rows [minutes, pack v1.0]';
comment on column features_snapshot.minutes_missing is
  'minutes of the bar without a row, or stale; null: on 1m rows [minutes, pack v1.0]';
comment on column features_snapshot.ret_h_1 is
  'mid_close against the mid_close one bar before; null: either mid missing [ratio, pack v1.0]';
comment on column features_snapshot.ret_abs_m_15 is
  'abs(ret_m_15); null: ret_m_15 is [ratio, pack v1.0]';
comment on column features_snapshot.ret_abs_h_1 is
  'abs(ret_h_1); null: ret_h_1 is [ratio, pack v1.0]';
comment on column features_snapshot.ret_abs_m_5 is
  'abs(ret_m_5); null: ret_m_5 is [ratio, pack v1.0]';
comment on column features_snapshot.rv_m_1 is
  'sqrt of the sum of squared log changes of the mid, from the mid in force at the open; without quotes of the prints; null: fewer than two mids or prints [ratio, pack v1.0]';
comment on column features_snapshot.rv_m_15 is
  'sqrt of the sum of squared log changes of mid_close, minute by minute; null: fewer than two mids or prints [ratio, pack v1.0]';
comment on column features_snapshot.rv_h_1 is
  'sqrt of the sum of squared log changes of mid_close, minute by minute; null: fewer than two mids or prints [ratio, pack v1.0]';
comment on column features_snapshot.atr_proxy_m_15 is
  '(high - low) / mid_close; null: an input is [ratio, pack v1.0]';
comment on column features_snapshot.atr_proxy_h_1 is
  '(high - low) / mid_close; null: an input is [ratio, pack v1.0]';
comment on column features_snapshot.v_buy_m_15 is
  'sum of v_buy_m_1 over the parts of the bar; null: no part has it, or one with a volume lacks it [quote, pack v1.0]';
comment on column features_snapshot.v_buy_h_1 is
  'sum of v_buy_m_15 over the parts of the bar; null: no part has it, or one with a volume lacks it [quote, pack v1.0]';
comment on column features_snapshot.v_sell_m_15 is
  'sum of v_sell_m_1 over the parts of the bar; null: no part has it, or one with a volume lacks it [quote, pack v1.0]';
comment on column features_snapshot.v_sell_h_1 is
  'sum of v_sell_m_15 over the parts of the bar; null: no part has it, or one with a volume lacks it [quote, pack v1.0]';
comment on column features_snapshot.v_total_m_15 is
  'sum of v_total_m_1 over the parts of the bar; null: no part has it, or one with a volume lacks it [quote, pack v1.0]';
comment on column features_snapshot.v_total_h_1 is
  'sum of v_total_m_15 over the parts of the bar; null: no part has it, or one with a volume lacks it [quote, pack v1.0]';
comment on column features_snapshot.trade_count_m_15 is
  'sum of trade_count_m_1 over the parts of the bar; null: no part has it, or one with a volume lacks it [prints, pack v1.0]';
comment on column features_snapshot.trade_count_h_1 is
  'sum of trade_count_m_15 over the parts of the bar; null: no part has it, or one with a volume lacks it [prints, pack v1.0]';
comment on column features_snapshot.cvd_delta_m_15 is
  'sum of cvd_delta_m_1 over the parts of the bar; null: no part has it, or one with a volume lacks it [quote, pack v1.0]';
comment on column features_snapshot.cvd_delta_h_1 is
  'sum of cvd_delta_m_15 over the parts of the bar; null: no part has it, or one with a volume lacks it [quote, pack v1.0]';
comment on column features_snapshot.cvd_delta_m_5 is
  'sum of cvd_delta_m_1 over the last 5 bars; null: one of the 5 bars is missing [quote, pack v1.0]';
comment on column features_snapshot.cvd_delta_m_75 is
  'sum of cvd_delta_m_15 over the last 5 bars; null: one of the 5 bars is missing [quote, pack v1.0]';
comment on column features_snapshot.cvd_delta_h_5 is
  'sum of cvd_delta_h_1 over the last 5 bars; null: one of the 5 bars is missing [quote, pack v1.0]';
comment on column features_snapshot.cvd_slope_m_75 is
  'least-squares slope of the running sum of cvd_delta_m_15 over the last 5 bars; null: one of the 5 bars is missing [quote/min, pack v1.0]';
comment on column features_snapshot.cvd_slope_h_5 is
  'least-squares slope of the running sum of cvd_delta_h_1 over the last 5 bars; null: one of the 5 bars is missing [quote/min, pack v1.0]';
comment on column features_snapshot.oi_open is
  'first open-interest sample of the minute, else the one in force; coins times the mark of the sample; null: no sample at most 20 s old at the close [quote, pack v1.0]';
comment on column features_snapshot.oi_close is
  'newest open-interest sample at the close; coins times the mark of the sample; null: no sample at most 20 s old at the close [quote, pack v1.0]';
comment on column features_snapshot.oi_min is
  'smallest sample of the minute, else the one in force; null: no sample at most 20 s old at the close [quote, pack v1.0]';
comment on column features_snapshot.oi_max is
  'largest sample of the minute, else the one in force; null: no sample at most 20 s old at the close [quote, pack v1.0]';
comment on column features_snapshot.oi_close_base is
  'newest open-interest sample at the close, as the venue counts it; null: no sample at most 20 s old at the close [coins, pack v1.0]';
comment on column features_snapshot.oi_delta_m_5 is
  '(oi_close_base - oi_close_base 5 minutes before) * mark_close; null: an edge is missing [quote, pack v1.0]';
comment on column features_snapshot.oi_delta_m_15 is
  '(oi_close_base - oi_close_base one bar before, at the minutes of both closes) * mark_close; null: an edge is missing [quote, pack v1.0]';
comment on column features_snapshot.oi_delta_h_1 is
  '(oi_close_base - oi_close_base one bar before, at the minutes of both closes) * mark_close; null: an edge is missing [quote, pack v1.0]';
comment on column features_snapshot.oi_roc_m_5 is
  'oi_close_base / oi_close_base 5 minutes before - 1, in coins; null: an edge is missing or zero [ratio, pack v1.0]';
comment on column features_snapshot.oi_roc_m_15 is
  'oi_close_base / oi_close_base one bar before - 1, in coins, at the minutes of both closes; null: an edge is missing or zero [ratio, pack v1.0]';
comment on column features_snapshot.oi_roc_h_1 is
  'oi_close_base / oi_close_base one bar before - 1, in coins, at the minutes of both closes; null: an edge is missing or zero [ratio, pack v1.0]';
comment on column features_snapshot.liq_count_m_5 is
  'liquidations of the last 5 minutes; null: always; no public feed exists [liquidations, pack v1.0]';
comment on column features_snapshot.liq_count_m_15 is
  'liquidations of the bar; null: always; no public feed exists [liquidations, pack v1.0]';
comment on column features_snapshot.liq_count_h_1 is
  'liquidations of the bar; null: always; no public feed exists [liquidations, pack v1.0]';
comment on column features_snapshot.liq_notional_m_5 is
  'notional of the liquidations of the last 5 minutes; null: always; no public feed exists [quote, pack v1.0]';
comment on column features_snapshot.liq_notional_m_15 is
  'notional of the liquidations of the bar; null: always; no public feed exists [quote, pack v1.0]';
comment on column features_snapshot.liq_notional_h_1 is
  'notional of the liquidations of the bar; null: always; no public feed exists [quote, pack v1.0]';
comment on column features_snapshot.mark_close is
  'newest mark price at the close; null: no sample at most 20 s old at the close [quote, pack v1.0]';
comment on column features_snapshot.funding_h_1 is
  'newest hourly funding rate the venue announced; null: none seen yet [ratio per hour, pack v1.0]';
comment on column features_snapshot.dfunding_h_1 is
  'funding_h_1 - funding_h_1 60 minutes before; null: either is [ratio per hour, pack v1.0]';
comment on column features_snapshot.basis_bp_m_1 is
  'mean over the samples of the minute of (mark - index) / index * 10000; null: no sample with an index above 0 [bp, pack v1.0]';
comment on column features_snapshot.basis_bp_m_15 is
  'mean of basis_bp_m_1 over the parts of the bar; null: too few parts have it [bp, pack v1.0]';
comment on column features_snapshot.basis_bp_h_1 is
  'mean of basis_bp_m_15 over the parts of the bar; null: too few parts have it [bp, pack v1.0]';
comment on column features_snapshot.basis_bp_m_5 is
  'mean of the known basis_bp_m_1 of the last 5 minutes; null: basis_bp_m_1 is [bp, pack v1.0]';
comment on column features_snapshot.time_to_next_funding_sec is
  'seconds from the close to the next full hour (design D11); null: not a tracked perp [s, pack v1.0]';
comment on column features_snapshot.spread_mean_m_15 is
  'mean of spread_mean_m_1 over the parts of the bar; null: too few parts have it [quote, pack v1.0]';
comment on column features_snapshot.spread_mean_h_1 is
  'mean of spread_mean_m_15 over the parts of the bar; null: too few parts have it [quote, pack v1.0]';
comment on column features_snapshot.spread_p95_m_15 is
  '95th percentile of spread_p95_m_1 over the parts of the bar; null: too few parts have it [quote, pack v1.0]';
comment on column features_snapshot.spread_p95_h_1 is
  '95th percentile of spread_p95_m_15 over the parts of the bar; null: too few parts have it [quote, pack v1.0]';
comment on column features_snapshot.obi_top5_mean_m_1 is
  'time-weighted mean of bid depth / (bid depth + ask depth), top 5 levels in quote currency; null: depth not subscribed, no snapshot in the minute, or too old at the close [share, pack v1.0]';
comment on column features_snapshot.obi_top5_mean_m_15 is
  'mean of obi_top5_mean_m_1 over the parts of the bar; null: too few parts have it [share, pack v1.0]';
comment on column features_snapshot.obi_top5_mean_h_1 is
  'mean of obi_top5_mean_m_15 over the parts of the bar; null: too few parts have it [share, pack v1.0]';
comment on column features_snapshot.depth_top5_quote_median_m_1 is
  'median over the snapshots of the minute of bid depth + ask depth, top 5 levels; null: depth not subscribed, no snapshot in the minute, or too old at the close [quote, pack v1.0]';
comment on column features_snapshot.depth_top5_quote_median_m_15 is
  'median of depth_top5_quote_median_m_1 over the parts of the bar; null: too few parts have it [quote, pack v1.0]';
comment on column features_snapshot.depth_top5_quote_median_h_1 is
  'median of depth_top5_quote_median_m_15 over the parts of the bar; null: too few parts have it [quote, pack v1.0]';
comment on column features_snapshot.z_vol_m_15 is
  'baseline z of v_total_m_15; null: warm-up, stale, no prints [sigma, pack v1.0]';
comment on column features_snapshot.z_vol_h_1 is
  'baseline z of v_total_h_1; null: warm-up, stale, no prints [sigma, pack v1.0]';
comment on column features_snapshot.z_ret_abs_m_15 is
  'baseline z of ret_abs_m_15; null: warm-up, stale, ret out of bounds [sigma, pack v1.0]';
comment on column features_snapshot.z_ret_abs_h_1 is
  'baseline z of ret_abs_h_1; null: warm-up, stale, ret out of bounds [sigma, pack v1.0]';
comment on column features_snapshot.z_ret_abs_m_5 is
  'baseline z of ret_abs_m_5; null: warm-up, stale, ret out of bounds [sigma, pack v1.0]';
comment on column features_snapshot.z_spread_m_15 is
  'baseline z of spread_mean_m_15; null: warm-up, stale, spread <= 0 [sigma, pack v1.0]';
comment on column features_snapshot.z_spread_h_1 is
  'baseline z of spread_mean_h_1; null: warm-up, stale, spread <= 0 [sigma, pack v1.0]';
comment on column features_snapshot.z_oi_roc_m_5 is
  'baseline z of oi_roc_m_5; null: warm-up, stale, oi_roc_m_5 is [sigma, pack v1.0]';
comment on column features_snapshot.z_oi_roc_m_15 is
  'baseline z of oi_roc_m_15; null: warm-up, stale, oi_roc_m_15 is [sigma, pack v1.0]';
comment on column features_snapshot.z_oi_roc_h_1 is
  'baseline z of oi_roc_h_1; null: warm-up, stale, oi_roc_h_1 is [sigma, pack v1.0]';
comment on column features_snapshot.z_basis_m_5 is
  'baseline z of basis_bp_m_5; null: warm-up, stale, basis_bp_m_5 is [sigma, pack v1.0]';
comment on column features_snapshot.z_basis_m_15 is
  'baseline z of basis_bp_m_15; null: warm-up, stale, basis_bp_m_15 is [sigma, pack v1.0]';
comment on column features_snapshot.z_basis_h_1 is
  'baseline z of basis_bp_h_1; null: warm-up, stale, basis_bp_h_1 is [sigma, pack v1.0]';
comment on column features_snapshot.z_cvd_delta_m_5 is
  'baseline z of cvd_delta_m_5; null: warm-up, stale, cvd_delta_m_5 is [sigma, pack v1.0]';
comment on column features_snapshot.z_cvd_slope_m_5 is
  'baseline z of cvd_slope_m_5; null: warm-up, stale, cvd_slope_m_5 is [sigma, pack v1.0]';
comment on column features_snapshot.q_vol_m_15 is
  'decayed mid-rank of v_total_m_15; null: as z_vol_m_15 [rank, pack v1.0]';
comment on column features_snapshot.q_vol_h_1 is
  'decayed mid-rank of v_total_h_1; null: as z_vol_h_1 [rank, pack v1.0]';
comment on column features_snapshot.q_ret_abs_m_15 is
  'decayed mid-rank of ret_abs_m_15; null: as z_ret_abs_m_15 [rank, pack v1.0]';
comment on column features_snapshot.q_ret_abs_h_1 is
  'decayed mid-rank of ret_abs_h_1; null: as z_ret_abs_h_1 [rank, pack v1.0]';
comment on column features_snapshot.q_oi_roc_m_5 is
  'decayed mid-rank of oi_roc_m_5; null: as z_oi_roc_m_5 [rank, pack v1.0]';
comment on column features_snapshot.q_oi_roc_m_15 is
  'decayed mid-rank of oi_roc_m_15; null: as z_oi_roc_m_15 [rank, pack v1.0]';
comment on column features_snapshot.q_oi_roc_h_1 is
  'decayed mid-rank of oi_roc_h_1; null: as z_oi_roc_h_1 [rank, pack v1.0]';
comment on column features_snapshot.scale_floored is
  'features whose scale is at its floor s_min, as on a book that is always one tick wide; null: never; empty when none [features, pack v1.0]';
comment on column features_snapshot.b_mean_oi_roc is
  'location of the transformed oi_roc_m_5; null: warm-up [asinh(ratio/divisor), pack v1.0]';
comment on column features_snapshot.b_scale_oi_roc is
  'scale of the transformed oi_roc_m_5; null: warm-up [asinh(ratio/divisor), pack v1.0]';
comment on column features_snapshot.b_mean_basis is
  'location of the transformed basis_bp_m_5; null: warm-up [asinh(bp/divisor), pack v1.0]';
comment on column features_snapshot.b_scale_basis is
  'scale of the transformed basis_bp_m_5; null: warm-up [asinh(bp/divisor), pack v1.0]';
comment on column features_snapshot.b_divisor_oi_roc is
  'winsorised decayed mean of abs(oi_roc_m_5), the divisor inside asinh; null: warm-up [ratio, pack v1.0]';
comment on column features_snapshot.b_divisor_basis is
  'winsorised decayed mean of abs(basis_bp_m_5), the divisor inside asinh; null: warm-up [bp, pack v1.0]';
comment on column features_snapshot.b_divisor_cvd is
  'winsorised decayed mean of abs(cvd_delta_m_5), the divisor inside asinh; null: warm-up [quote, pack v1.0]';
comment on column features_snapshot.b_divisor_cvd_slope is
  'winsorised decayed mean of abs(cvd_slope_m_5), the divisor inside asinh; null: warm-up [quote/min, pack v1.0]';
comment on column features_snapshot.b_divisor_dfunding is
  'winsorised decayed mean of abs(dfunding_h_1), the divisor inside asinh; null: warm-up [ratio per hour, pack v1.0]';
comment on column features_snapshot.is_vol_spike_m_1 is
  'trigger of spike.vol_spike_m_1 on a minute that is ok and liquid; null: z_vol_m_1 is [bool, pack v1.0]';
comment on column features_snapshot.is_vol_spike_m_15 is
  'trigger of spike.vol_spike_m_1 on a minute that is ok and liquid; null: z_vol_m_15 is [bool, pack v1.0]';
comment on column features_snapshot.is_vol_spike_h_1 is
  'trigger of spike.vol_spike_m_1 on a minute that is ok and liquid; null: z_vol_h_1 is [bool, pack v1.0]';
comment on column features_snapshot.is_price_spike_up_m_1 is
  'trigger of spike.price_spike_up_m_1 on a minute that is ok and liquid; null: an input is [bool, pack v1.0]';
comment on column features_snapshot.is_price_spike_up_m_15 is
  'trigger of spike.price_spike_up_m_1 on a minute that is ok and liquid; null: an input is [bool, pack v1.0]';
comment on column features_snapshot.is_price_spike_up_h_1 is
  'trigger of spike.price_spike_up_m_1 on a minute that is ok and liquid; null: an input is [bool, pack v1.0]';
comment on column features_snapshot.is_price_spike_down_m_1 is
  'trigger of spike.price_spike_down_m_1 on a minute that is ok and liquid; null: an input is [bool, pack v1.0]';
comment on column features_snapshot.is_price_spike_down_m_15 is
  'trigger of spike.price_spike_down_m_1 on a minute that is ok and liquid; null: an input is [bool, pack v1.0]';
comment on column features_snapshot.is_price_spike_down_h_1 is
  'trigger of spike.price_spike_down_m_1 on a minute that is ok and liquid; null: an input is [bool, pack v1.0]';
comment on column features_snapshot.is_oi_spike_up_m_5 is
  'trigger of spike.oi_spike_up_m_5 on a minute that is ok and liquid; null: an input is, or no such detector [bool, pack v1.0]';
comment on column features_snapshot.is_oi_spike_up_m_15 is
  'trigger of spike.oi_spike_up_m_5 on a minute that is ok and liquid; null: an input is, or no such detector [bool, pack v1.0]';
comment on column features_snapshot.is_oi_spike_up_h_1 is
  'trigger of spike.oi_spike_up_m_5 on a minute that is ok and liquid; null: an input is, or no such detector [bool, pack v1.0]';
comment on column features_snapshot.is_oi_spike_down_m_5 is
  'trigger of spike.oi_spike_down_m_5 on a minute that is ok and liquid; null: an input is, or no such detector [bool, pack v1.0]';
comment on column features_snapshot.is_oi_spike_down_m_15 is
  'trigger of spike.oi_spike_down_m_5 on a minute that is ok and liquid; null: an input is, or no such detector [bool, pack v1.0]';
comment on column features_snapshot.is_oi_spike_down_h_1 is
  'trigger of spike.oi_spike_down_m_5 on a minute that is ok and liquid; null: an input is, or no such detector [bool, pack v1.0]';
comment on column features_snapshot.is_spread_stress_m_1 is
  'trigger of shift.spread_stress_m_1 on a minute that is ok and liquid; null: z_spread_m_1 is [bool, pack v1.0]';
comment on column features_snapshot.is_spread_stress_m_15 is
  'trigger of shift.spread_stress_m_1 on a minute that is ok and liquid; null: z_spread_m_15 is [bool, pack v1.0]';
comment on column features_snapshot.is_spread_stress_h_1 is
  'trigger of shift.spread_stress_m_1 on a minute that is ok and liquid; null: z_spread_h_1 is [bool, pack v1.0]';
comment on column features_snapshot.is_liq_cluster_m_5 is
  'trigger of spike.liq_cluster_m_5 on a minute that is ok and liquid; null: an input is [bool, pack v1.0]';
comment on column features_snapshot.is_liq_cluster_m_15 is
  'trigger of spike.liq_cluster_m_5 on a minute that is ok and liquid; null: an input is [bool, pack v1.0]';
comment on column features_snapshot.is_liq_cluster_h_1 is
  'trigger of spike.liq_cluster_m_5 on a minute that is ok and liquid; null: an input is [bool, pack v1.0]';
comment on column features_snapshot.rs_score_m_15 is
  'w_ret * z_ret_abs_m_15 * sign(ret_m_15) + w_vol * z_vol_m_15 + w_oi * sign(oi_roc_m_15) * min(|z_oi_roc_m_15|, z_cap); null: never; NULL terms count 0 [score, pack v1.0]';
comment on column features_snapshot.rs_score_h_1 is
  'w_ret * z_ret_abs_h_1 * sign(ret_h_1) + w_vol * z_vol_h_1 + w_oi * sign(oi_roc_h_1) * min(|z_oi_roc_h_1|, z_cap); null: never; NULL terms count 0 [score, pack v1.0]';
comment on column features_snapshot.rs_incomplete is
  'a z of rs_score_m_5 was NULL; that of open interest only where oi_roc_m_5 is known; null: never [bool, pack v1.0]';
