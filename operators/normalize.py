"""Turn a bar into a feature row: history columns, baselines, gates.

Rules of this file: it reads only what is stored (rounded columns), so rows can be recomputed from
stored bars; baselines are updated first and then normalise (design D10); an amended bar restores
the state before the bar and applies once (design D13); NULL is None.
Build plan 4, 5, 8; numerics 2-5.
"""

from __future__ import annotations

import msgspec

from operators.baselines import (
    Baseline,
    Decay,
    Feature,
    Normalised,
    Robust,
    apply,
    fresh,
)
from operators.formulas import flow
from operators.formulas.elementary import round12, rounded
from operators.formulas.price import simple_return
from operators.lattice import HOUR_MS, MINUTE_MS, day_of
from operators.quality import grade
from operators.records import Bar, BarItem, Columns, Row, RowItem
from packs import schema
from packs.loader import Detector, Packs
from packs.schema import FeaturePack

TF = "1m"
SLOPE_BARS = 5
RETURNS = {"ret_m_1": 1, "ret_m_5": 5, "ret_m_15": 15}
HISTORY_BARS = 16  # bars looked back to: the longest return plus the bar itself


class History(msgspec.Struct):
    """Closed minutes that columns look back to, oldest first; bounded by HISTORY_BARS."""

    labels: list[int] = []
    mids: list[float | None] = []
    deltas: list[float | None] = []
    level: float = 0.0
    level_day: int = -1


class Gates(msgspec.Struct):
    """Running medians behind the illiquidity gates (estimates from the sketches)."""

    v_median: float | None = None
    spread_median: float | None = None


class NormState(msgspec.Struct):
    """Everything normalisation remembers of one asset and timeframe."""

    version: int = 1
    history: History = msgspec.field(default_factory=History)
    baselines: dict[str, Baseline] = {}
    gates: Gates = msgspec.field(default_factory=Gates)
    last_ms: int = 0

    def copy(self) -> NormState:
        """Return an independent copy."""
        history = self.history
        return NormState(
            version=self.version,
            history=History(
                history.labels.copy(),
                history.mids.copy(),
                history.deltas.copy(),
                history.level,
                history.level_day,
            ),
            baselines={name: baseline.copy() for name, baseline in self.baselines.items()},
            gates=Gates(self.gates.v_median, self.gates.spread_median),
            last_ms=self.last_ms,
        )


class NormaliseState(msgspec.Struct):
    """State after the last bar, and before it: an amendment starts again from `before`."""

    now: NormState = msgspec.field(default_factory=NormState)
    before: NormState | None = None


class Normalize:
    """`BarItem` in, `RowItem` out, one asset at a time."""

    def __init__(self, packs: Packs) -> None:
        features = packs.features
        self._features = features
        self._columns = tuple(column.name for column in features.columns)
        self._robust = _robust_of(features)
        self._decay = Decay(**features.decay.m_1.model_dump())
        self._specs = {n.feature: _feature_of(n) for n in features.normalised}
        self._warm = _features_in_use(packs)

    def initial(self) -> NormaliseState:
        """Return the state of an asset that was never heard of."""
        return NormaliseState()

    def step(self, state: NormaliseState, item: BarItem) -> list[RowItem]:
        """Return the rows of a phase; none when the minute was not amended."""
        bar = item.bar
        if bar is None:
            return [RowItem(item.phase, item.asset_uid, ())]
        if bar.revision == 0:
            state.before = state.now.copy()
        else:
            assert state.before is not None, (bar.asset_uid, bar.exchange_ts_ms)
            state.now = state.before.copy()
        return [RowItem(item.phase, item.asset_uid, (self._row(state.now, bar),))]

    def _row(self, state: NormState, bar: Bar) -> Row:
        columns: Columns = dict.fromkeys(self._columns)
        columns |= bar.columns
        self._look_back(state, bar, columns)
        self._gate(state.gates, columns)
        clamps = self._normalise(state, bar, columns)
        self._strength(columns)
        self._read_medians(state, bar)
        columns["feature_pack"] = self._features.feature_pack
        columns["pack_rev"] = self._features.pack_rev
        state.last_ms = bar.exchange_ts_ms
        extras = {"clamp": clamps} if clamps else {}
        return Row(bar.asset_uid, bar.symbol, TF, bar.exchange_ts_ms, bar.revision, columns, extras)

    # --- history -----------------------------------------------------------------------------

    def _look_back(self, state: NormState, bar: Bar, columns: Columns) -> None:
        """Returns against earlier closes, cumulative volume delta, and the price sanity bound."""
        history, label = state.history, bar.exchange_ts_ms
        _remember(history, label, self._fresh_mid(columns), columns["cvd_delta_m_1"])
        for name, minutes in RETURNS.items():
            columns[name] = rounded(
                simple_return(columns["mid_close"], _mid_of(history, label - minutes * MINUTE_MS))
            )
        columns["cvd_level"] = _cvd_level(history, label, columns["cvd_delta_m_1"])
        columns["cvd_slope_m_5"] = _cvd_slope(history, label)
        bound = self._features.quality.ret_abs_max
        ret = columns["ret_m_1"]
        if ret is not None and abs(ret) > bound:
            columns["ret_m_1"] = bound if ret > 0.0 else -bound
            reasons = [*columns["dq_reasons"], "price_sanity"]
            columns["dq_status"], columns["dq_reasons"] = grade(reasons)
        columns["ret_abs_m_1"] = None if ret is None else abs(columns["ret_m_1"])

    def _fresh_mid(self, columns: Columns) -> float | None:
        """Return the mid that later returns may look back to: none that outlived its book."""
        staleness = columns["book_staleness_ms"]
        if staleness is not None and staleness > self._features.quality.book_staleness_ms_max:
            return None
        return columns["mid_close"]  # type: ignore[no-any-return]

    # --- gates -------------------------------------------------------------------------------

    def _gate(self, gates: Gates, columns: Columns) -> None:
        """Illiquidity by the asset's own medians, and how near the limits are (plan 8.3, 10.7)."""
        policy, quality = self._features.illiquidity, self._features.quality
        v_min = max(policy.v_min_quote, policy.v_min_median_share * (gates.v_median or 0.0))
        cap = None
        if gates.spread_median is not None:
            cap = policy.spread_cap_median_multiple * gates.spread_median
        volume, spread = columns["v_total_m_1"], columns["spread_mean_m_1"]
        thin = volume is None or volume < v_min
        wide = spread is not None and cap is not None and spread > cap
        columns["illiquidity_hit"] = thin or wide
        near_thin = volume is not None and v_min <= volume < v_min * policy.near_factor
        near_wide = (
            spread is not None and cap is not None and cap / policy.near_factor < spread <= cap
        )
        columns["illiq_penalty"] = int(near_thin or near_wide)
        staleness = columns["book_staleness_ms"]
        near_stale = (
            staleness is not None
            and quality.book_staleness_ms_near < staleness <= quality.book_staleness_ms_max
        )
        columns["dq_penalty"] = int(near_stale)

    def _read_medians(self, state: NormState, bar: Bar) -> None:
        """Take the medians of the gates from the sketches, for the minutes to come.

        Every minute until the baseline is warm, then hourly.
        """
        gates, label = state.gates, bar.exchange_ts_ms
        for feature, name in (("vol", "v_median"), ("spread", "spread_median")):
            baseline = state.baselines.get(feature)
            if baseline is None or baseline.n == 0:
                continue
            if (
                baseline.n <= self._robust.min_samples
                or label % HOUR_MS == 0
                or getattr(gates, name) is None
            ):
                setattr(gates, name, baseline.sketch.quantile(0.5))

    # --- baselines ---------------------------------------------------------------------------

    def _normalise(
        self, state: NormState, bar: Bar, columns: Columns
    ) -> dict[str, tuple[float, float]]:
        """Fill z, q and the audit columns; return the scorer's clamp bounds by z column."""
        label = bar.exchange_ts_ms
        clamps: dict[str, tuple[float, float]] = {}
        warmup = False
        floored = []
        for column in self._features.normalised:
            baseline = state.baselines.get(column.feature)
            if baseline is None:
                baseline = state.baselines[column.feature] = fresh(self._robust)
            result = apply(
                baseline,
                _input_of(column, columns),
                label_ms=label,
                dq=columns["dq_status"],
                feature=self._specs[column.feature],
                decay=self._decay,
                robust=self._robust,
            )
            self._write(column, result, columns, clamps)
            if result.floored and result.z is not None:
                floored.append(column.feature)
            fed_by = "mid_close" if column.source.startswith("ret_") else column.source
            if fed_by in bar.columns and column.feature in self._warm:
                warmup = warmup or baseline.n < self._robust.min_samples
            if column.feature == "vol":
                columns["q_confidence"] = result.confidence
        columns["warmup"] = warmup
        columns["scale_floored"] = floored
        return clamps

    def _write(
        self,
        column: schema.Normalised,
        result: Normalised,
        columns: Columns,
        clamps: dict[str, tuple[float, float]],
    ) -> None:
        columns[column.z] = rounded(result.z)
        if column.q is not None:
            columns[column.q] = rounded(result.q)
        columns[column.mean] = rounded(result.mean)
        columns[column.scale] = rounded(result.scale)
        if result.z is not None:
            clamps[column.z] = (round12(result.clamp_lo), round12(result.clamp_hi))

    def _strength(self, columns: Columns) -> None:
        """Relative strength (plan 6.3): NULL terms count zero and are marked."""
        policy = self._features.relative_strength
        z_ret, ret_5 = columns["z_ret_abs_m_1"], columns["ret_m_5"]
        z_vol, z_oi = columns["z_vol_m_1"], columns.get("z_oi_roc_m_5")
        terms = [0.0, 0.0, 0.0]
        if z_ret is not None and ret_5 is not None:
            terms[0] = policy.w_ret * z_ret * _sign(ret_5)
        if z_vol is not None:
            terms[1] = policy.w_vol * z_vol
        if z_oi is not None:
            oi_roc = columns["oi_roc_m_5"]
            terms[2] = policy.w_oi * _sign(oi_roc) * min(abs(z_oi), policy.z_cap)
        columns["rs_score_m_5"] = round12(terms[0] + terms[1] + terms[2])
        columns["rs_incomplete"] = z_ret is None or ret_5 is None or z_vol is None


# --- helpers -------------------------------------------------------------------------------------


def _feature_of(column: schema.Normalised) -> Feature:
    return Feature(
        name=column.feature,
        transform=column.transform,
        s_min=column.s_min,
        d_min=column.d_min,
        x_zero=column.x_zero,
    )


def _robust_of(features: FeaturePack) -> Robust:
    constants = features.robust
    return Robust(
        min_samples=constants.min_samples,
        low_confidence_samples=constants.low_confidence_samples,
        clip_sigma=constants.clip_sigma,
        kappa=constants.kappa,
        mad_consistency=constants.mad_consistency,
        d_clip=constants.d_clip,
        clamp_default=constants.clamp_default,
        clamp_iqr_k=constants.clamp_iqr_multiple,
        clamp_iqr_floor=constants.clamp_iqr_floor,
        sketch_prune_share=constants.sketch_prune_share,
    )


def _features_in_use(packs: Packs) -> frozenset[str]:
    """Return the features whose z an enabled detector needs: they decide `warmup` (plan 8.1)."""
    needed = {
        name
        for detector in packs.detectors
        if detector.enabled and detector.mode != "off" and TF in detector.tfs
        for name in _looked_at(detector)
    }
    return frozenset(c.feature for c in packs.features.normalised if c.z in needed)


def _looked_at(detector: Detector) -> set[str]:
    support = detector.secondary.names if detector.secondary is not None else ()
    return {*detector.required, *detector.inputs, *support}


def _input_of(column: schema.Normalised, columns: Columns) -> float | None:
    """Return the raw value of a feature, NULL by the rules of numerics 2."""
    value: float | None = columns[column.source]
    if column.feature == "vol":
        # A bar without prints is no sample; where prints are not counted, no volume says the same.
        count = columns["trade_count_m_1"]
        return None if (value == 0.0 if count is None else count == 0) else value
    if column.feature == "ret_abs" and "price_sanity" in columns["dq_reasons"]:
        return None
    if column.feature == "spread" and value is not None and value <= 0.0:
        return None
    return value


def _remember(history: History, label: int, mid: float | None, delta: float | None) -> None:
    history.labels.append(label)
    history.mids.append(mid)
    history.deltas.append(delta)
    if len(history.labels) > HISTORY_BARS:
        del history.labels[0], history.mids[0], history.deltas[0]


def _mid_of(history: History, label: int) -> float | None:
    """Return the mid at a minute's close, NULL when that minute is unknown."""
    for index in range(len(history.labels) - 1, -1, -1):
        if history.labels[index] == label:
            return history.mids[index]
    return None


def _cvd_level(history: History, label: int, delta: float | None) -> float | None:
    """Running sum since 00:00 UTC; the bar labelled 00:00 still belongs to the day it closes."""
    day = day_of(label)
    if day != history.level_day:
        history.level, history.level_day = 0.0, day
    if delta is None:
        return None
    history.level = round12(history.level + delta)
    return history.level


def _cvd_slope(history: History, label: int) -> float | None:
    deltas = history.deltas[-SLOPE_BARS:]
    known = [delta for delta in deltas if delta is not None]
    contiguous = history.labels[-SLOPE_BARS:] == [
        label - step * MINUTE_MS for step in range(SLOPE_BARS - 1, -1, -1)
    ]
    if len(known) < SLOPE_BARS or not contiguous:
        return None
    return round12(flow.slope(known))


def _sign(value: float | None) -> float:
    if value is None or value == 0.0:
        return 0.0
    return 1.0 if value > 0.0 else -1.0
