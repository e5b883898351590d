"""Turn bars into feature rows: history columns, baselines, gates, and the 15m and 1h rows.

Rules of this file: it reads only what is stored (rounded columns), so rows can be recomputed from
stored bars; baselines are updated first and then normalise (design D10); an amended bar takes the
one before it back and applies once (design D13); a longer row is made when its last minute is
final, and named as in the pack until it leaves; NULL is None.  Build plan 4, 5, 8, 15; numerics
2-5.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from operator import itemgetter
from typing import Protocol

import msgspec

from operators import kernel, native
from operators.baselines import Baseline, Decay, Feature, Plan, Robust, fresh
from operators.formulas.price import range_ratio, simple_return
from operators.inputs import Recorder, Rule, Rules
from operators.kernel import Entry, round12, rounded
from operators.lattice import HOUR_MS, MINUTE_MS, day_of, iso
from operators.normal_state import (
    ALL,
    RECORDS_MAX,
    NormaliseCodec,
    NormaliseState,
    TfState,
    Undo,
    WarmStart,
    forget_parts,
    handed_out,
    state_of,
    take_back,
    undo_of,
)
from operators.quality import grade
from operators.records import Bar, BarItem, BaselineState, Columns, Row, RowItem
from operators.rollup import Folder
from operators.verdicts import DQ_STALE
from packs import schema
from packs.loader import Detector, Packs
from packs.schema import MINUTE_TF, TIMEFRAME_MIN, FeaturePack, Timeframe

# One more than the longest look-back, an hour: the newest can be taken back.
HISTORY_BARS = 62
LONG_HISTORY_BARS = kernel.SLOPE_BARS
# Parts of the next longer bar, and one more on 1m: the newest can be taken back.
PARTS_KEPT: dict[Timeframe, int] = {"1m": 16, "15m": 4}
HOURLY = "hourly"
# A longer timeframe, that of its parts, and how many there are.
LONGER: tuple[tuple[Timeframe, Timeframe, int], ...] = (("15m", "1m", 15), ("1h", "15m", 4))


class Warm(Protocol):
    """Baselines that an earlier run stored, for assets that begin without a state."""

    def take(self, asset_uid: int, label_ms: int) -> Mapping[str, Mapping[str, Baseline]]:
        """Return those an asset may begin with at the bar of a label, by timeframe and column.

        None of them has seen this bar or a later one.
        """


class _Tf:
    """What is fixed for one timeframe: its columns, their stored names, its baselines."""

    def __init__(self, tf: Timeframe, packs: Packs) -> None:
        features = packs.features
        self.tf = tf
        self.minutes = TIMEFRAME_MIN[tf]
        self.bar_ms = self.minutes * MINUTE_MS
        self.names = features.names(tf)
        self.columns = tuple(
            column.name
            for column in features.columns
            if column.name in self.names and (tf == MINUTE_TF or column.rollup != "alias")
        )
        self.stored = tuple(self.names[name] for name in self.columns)
        self.read = itemgetter(*self.columns)
        self.blank: Columns = dict.fromkeys(self.columns)
        robust, warm = robust_of(features), features_in_use(packs, tf)
        kept = [n for n in features.normalised if tf in n.tfs]
        self.rules = tuple(
            Rule(_feature_of(n), decay_of(n.decay or features.decay.of(tf)), n.sampled == HOURLY)
            for n in kept
        )
        self.entries = tuple(
            Entry(
                Plan(rule.feature, rule.decay, robust),
                n.source,
                (n.z, n.q, n.mean, n.scale, n.divisor),
                None if n.z is None else self.names[n.z],
                _raw_columns(n.source, features),
                hourly=rule.hourly,
                warm=n.feature in warm,
            )
            for n, rule in zip(kept, self.rules, strict=True)
        )
        self.recorder = Recorder(self.entries)


class Normalize:
    """`BarItem` in, `RowItem` out, one asset at a time."""

    def __init__(self, packs: Packs, *, hands_out: bool = False, warm: Warm | None = None) -> None:
        """hands_out : once an hour the items of an asset carry its baselines, to be stored.
        warm : where an asset without a state begins; None: with nothing.
        """
        features = packs.features
        self._features = features
        self._hands_out = hands_out
        self._warm = warm
        self._robust = robust_of(features)
        self._limits = kernel.Limits(features)
        self._tfs = {tf: _Tf(tf, packs) for tf in schema.TIMEFRAMES}
        self._sources = {  # column -> the feature of its baseline
            tf: {fixed.names[entry.source]: entry.name for entry in fixed.entries}
            for tf, fixed in self._tfs.items()
        }
        self._folder = Folder(features)
        self._layout = self._folder.digest

    def codec(self) -> NormaliseCodec:
        """Return how the state is stored."""
        known = {
            tf: tuple(entry.name for entry in fixed.entries) for tf, fixed in self._tfs.items()
        }
        rules = Rules(self._robust, {tf: fixed.rules for tf, fixed in self._tfs.items()})
        return NormaliseCodec(self._robust, self._layout, known, rules)

    def initial(self) -> NormaliseState:
        """Return the state of an asset that was never heard of."""
        return NormaliseState(layout=self._layout)

    def step(self, state: NormaliseState, item: BarItem) -> list[RowItem]:
        """Return the rows of a phase: the minute's when it is sealed or amended, the longer ones
        when their last minute is final."""
        if state.layout != self._layout:
            forget_parts(state, self._layout)
        self.begin(state, item)
        phase = item.phase
        rows = [] if item.bar is None else [self._minute(state, item.bar, undone=not phase.alone)]
        baselines: tuple[BaselineState, ...] = ()
        if phase.final or phase.alone:
            state.undo = None
            if phase.final:
                rows += self._longer(state, item)
            if state.reported:
                state.resets, state.reported = [], False
            if self._hands_out and _is_due(state, item):
                baselines = handed_out(
                    state, item.asset_uid, self._features.feature_pack, self._sources
                )
        return [RowItem(phase, item.asset_uid, tuple(rows), (), baselines)]

    def begin(self, state: NormaliseState, item: BarItem) -> None:
        """Give an asset whose first bar this is the baselines that are stored of it."""
        if state.symbol or item.bar is None:
            return
        state.symbol = item.bar.symbol
        if self._warm is not None and not state.resets:  # nothing was lost in storage
            self._begin_warm(state, item.asset_uid, item.bar.exchange_ts_ms, self._warm)

    def _begin_warm(self, state: NormaliseState, uid: int, label: int, warm: Warm) -> None:
        """Give an asset that begins the baselines that are stored of it.

        Nothing else is stored: a column that looks back, such as a return, is NULL until its bars
        are there again, and its baseline has missed them. The running medians of the gates begin
        with those of the sketches. Names that nobody knows are left out.
        """
        stored, count, newest_ms = warm.take(uid, label), 0, 0
        for tf, sources in self._sources.items():
            for name, feature in sources.items():
                baseline = stored.get(tf, {}).get(name)
                if baseline is not None and baseline.last_ts_ms is not None:
                    assert baseline.last_ts_ms < label, (uid, tf, name, baseline.last_ts_ms, label)
                    state_of(state, tf).baselines[feature] = baseline.copy()
                    count, newest_ms = count + 1, max(newest_ms, baseline.last_ts_ms)
        if count:
            state.warm = WarmStart(label, newest_ms, count)
            least = self._robust.min_samples
            for own in state.tfs.values():
                kernel.read_medians(own.volume, own.spread, own.baselines, label, least)

    # --- the minute --------------------------------------------------------------------------

    def _minute(self, state: NormaliseState, bar: Bar, *, undone: bool) -> Row:
        """Return the row of a bar; undone : it may yet be taken back."""
        fixed, own, label = self._tfs[MINUTE_TF], state_of(state, MINUTE_TF), bar.exchange_ts_ms
        if bar.revision > 0 and not _is_lost(state, own):
            take_back(state, own, label)
            if state.since is not None:
                fixed.recorder.pop(state.since.logs[MINUTE_TF], label)
        state.symbol = bar.symbol
        state.undo = undo = undo_of(state, own) if undone else None
        columns: Columns = fixed.blank | bar.columns
        self._look_back(state, own, label, columns)
        clamps = self._complete(own, fixed, label, columns, undo, bar.columns)
        if state.since is not None:
            _record(state, fixed, label, columns)
        own.parts.append(self._folder.part_of_minute(label, columns))
        del own.parts[: -PARTS_KEPT[MINUTE_TF]]
        return self._row(state, fixed, bar.asset_uid, label, bar.revision, columns, clamps, bar)

    def _look_back(self, state: NormaliseState, own: TfState, label: int, columns: Columns) -> None:
        """Columns against earlier closes, and the price sanity bound: beyond it, or with prices at
        odds, the row is stale."""
        history = own.history
        insane = kernel.look_back(
            columns, history.labels, history.values, label, HISTORY_BARS, self._limits
        )
        columns["cvd_level"] = _cvd_level(state, label, columns["cvd_delta_m_1"])
        if insane:
            reasons = [*columns["dq_reasons"], "price_sanity"]
            columns["dq_status"], columns["dq_reasons"] = grade(reasons)

    # --- 15m and 1h --------------------------------------------------------------------------

    def _longer(self, state: NormaliseState, item: BarItem) -> list[Row]:
        """Return the longer rows that end with this minute; an asset without it has none."""
        label, rows = item.phase.minute_ms, []
        for tf, part_tf, count in LONGER:
            fixed, parts_of = self._tfs[tf], state_of(state, part_tf)
            if label % fixed.bar_ms or parts_of.last_ms != label:
                break
            own = state_of(state, tf)
            parts = [part for part in parts_of.parts if part.label_ms > label - fixed.bar_ms]
            folded, reasons = self._folder.fold(
                parts, label, expected=count, part_min=TIMEFRAME_MIN[part_tf]
            )
            columns: Columns = fixed.blank | folded
            columns["dq_status"], columns["dq_reasons"] = grade(reasons)
            columns["ingest_ts"] = iso(item.phase.clock_ms)
            columns["ingest_lag_ms"] = item.phase.clock_ms - label
            self._recompute(state, own, fixed, label, columns)
            given = {name: value for name, value in folded.items() if value is not None}
            clamps = self._complete(own, fixed, label, columns, None, given)
            if state.since is not None:
                _record(state, fixed, label, columns)
            if tf in PARTS_KEPT:
                own.parts.append(self._folder.part_of_bar(label, columns))
                del own.parts[: -PARTS_KEPT[tf]]
            rows.append(self._row(state, fixed, item.asset_uid, label, 0, columns, clamps, None))
        return rows

    def _recompute(
        self, state: NormaliseState, own: TfState, fixed: _Tf, label: int, columns: Columns
    ) -> None:
        """Columns that are the formula at the longer timeframe (build plan 15.2)."""
        minutes = state_of(state, MINUTE_TF).history
        before = minutes.at("mid_close", label - fixed.bar_ms)
        ret = rounded(simple_return(columns["mid_close"], before))
        columns |= dict.fromkeys((name for name, _ in kernel.RETURNS), ret)
        columns |= dict.fromkeys(("ret_abs_m_1", "ret_abs_m_5"), None if ret is None else abs(ret))
        mids = minutes.window("mid_close", label, fixed.minutes + 1, MINUTE_MS)
        known = array("d", [mid for mid in mids if mid is not None])
        columns["rv_m_1"] = rounded(kernel.realized_volatility(known))
        columns["atr_proxy_m_1"] = rounded(
            range_ratio(columns["high"], columns["low"], columns["mid_close"])
        )
        own.history.push(label, {"cvd_delta_m_1": columns["cvd_delta_m_1"]}, LONG_HISTORY_BARS)
        deltas = own.history.values["cvd_delta_m_1"]
        kernel.flow_window(columns, own.history.labels, deltas, label, fixed.minutes)
        kernel.open_interest_changes(
            columns, minutes.labels, minutes.values["oi_close_base"], label, fixed.minutes
        )
        columns["basis_bp_m_5"] = columns["basis_bp_m_1"]

    # --- what every timeframe does -----------------------------------------------------------

    def _complete(
        self,
        own: TfState,
        fixed: _Tf,
        label: int,
        columns: Columns,
        undo: Undo | None,
        given: Columns,
    ) -> dict[str, tuple[float, float]]:
        """Gates, baselines, strength and provenance; return the clamp bounds by z column.

        given : the columns before; one that is not there belongs to a feed the asset does not have.
        """
        day = day_of(label)
        volume, spread = own.volume, own.spread
        if volume.day != day or spread.day != day:
            self._settle(own, day)
        if len(own.baselines) < len(fixed.entries):
            for entry in fixed.entries:
                own.baselines.setdefault(entry.name, fresh(self._robust))
        clamps = kernel.complete(
            own.baselines,
            fixed.entries,
            columns,
            given,
            label,
            None if undo is None else undo.checkpoints,
            volume,
            spread,
            self._limits,
            self._robust.min_samples,
        )
        if columns["dq_status"] != DQ_STALE:
            _count(own, day, columns, undo)
        columns["feature_pack"] = self._features.feature_pack
        columns["pack_rev"] = self._features.pack_rev
        own.last_ms = label
        return clamps

    def _row(
        self,
        state: NormaliseState,
        fixed: _Tf,
        asset_uid: int,
        label: int,
        revision: int,
        columns: Columns,
        clamps: dict[str, tuple[float, float]],
        bar: Bar | None,
    ) -> Row:
        """Return the row under its stored names, with what has no column of its own."""
        extras: Columns = {} if bar is None else dict(bar.extras)
        if clamps:
            extras["clamp"] = clamps
        if state.warm is not None and (fixed.tf, label) == (MINUTE_TF, state.warm.label_ms):
            updated_at = iso(state.warm.updated_ms)
            extras["warm_started"] = {"baselines": state.warm.count, "updated_at": updated_at}
        # Said once; again only by the amendment that replaces the row that said it.
        if state.resets and (fixed.tf == MINUTE_TF or not state.reported):
            extras["baseline_reset"] = [msgspec.structs.asdict(reset) for reset in state.resets]
            state.reported = True
        if fixed.tf != MINUTE_TF:
            columns = dict(zip(fixed.stored, fixed.read(columns), strict=True))
        return Row(asset_uid, state.symbol, fixed.tf, label, revision, columns, extras)

    # --- gates -------------------------------------------------------------------------------

    def _settle(self, own: TfState, day: int) -> None:
        """Take the medians over the completed days when a new day begins."""
        days = self._features.illiquidity.median_days
        for gate in (own.volume, own.spread):
            if gate.day != day:
                gate.day = day
                gate.settled = gate.counts.median(day, days)
                gate.counts.forget(day - days - 1)  # one more than needed, for an amendment


# --- helpers -------------------------------------------------------------------------------------


def _record(state: NormaliseState, fixed: _Tf, label: int, columns: Columns) -> None:
    """Note what the baselines were given; after too many records the state is stored whole."""
    since = state.since
    assert since is not None
    log = since.logs.get(fixed.tf)
    if log is None:
        log = since.logs[fixed.tf] = bytearray()
    fixed.recorder.append(log, label, columns)
    if fixed.recorder.count(log) > RECORDS_MAX:
        state.since = None


def _is_lost(state: NormaliseState, own: TfState) -> bool:
    """Tell whether a state was lost since the seal: then it begins with the amendment."""
    return any(reset.tf == ALL for reset in state.resets) and not own.last_ms


def _is_due(state: NormaliseState, item: BarItem) -> bool:
    """Tell whether an asset hands out its baselines: in one minute of the hour, not all at once.

    One that began warm waits an hour: a restart before the first commit must find what is stored
    as the first start did.
    """
    minute_ms = item.phase.minute_ms
    if state.warm is not None and minute_ms < state.warm.label_ms + HOUR_MS:
        return False
    return minute_ms // MINUTE_MS % 60 == item.asset_uid % 60


def _feature_of(column: schema.Normalised) -> Feature:
    return Feature(
        name=column.feature,
        transform=column.transform,
        s_min=column.s_min,
        d_min=column.d_min,
        x_zero=column.x_zero,
        ranked=column.q is not None,
        scored=column.z is not None,
    )


def robust_of(features: FeaturePack) -> Robust:
    """Return the pack's constants of the baselines."""
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


def decay_of(constants: schema.Decay) -> Decay:
    """Return the pack's forgetting as baselines take it."""
    return Decay(a_m=constants.a_m, a_s=constants.a_s, growth=constants.growth)


def features_in_use(packs: Packs, tf: Timeframe) -> frozenset[str]:
    """Return the features that an enabled detector needs on a timeframe: they decide `warmup`
    (build plan 8.1)."""
    names = packs.features.names(tf)
    needed = {
        names.get(name, name)
        for detector in packs.detectors
        if detector.enabled and detector.mode != "off" and tf in detector.tfs
        for name in _looked_at(detector)
    }
    return frozenset(
        n.feature
        for n in packs.features.normalised
        if tf in n.tfs and n.z is not None and names[n.z] in needed
    )


def _looked_at(detector: Detector) -> set[str]:
    support = detector.secondary.names if detector.secondary is not None else ()
    return {*detector.required, *detector.inputs, *support}


def _raw_columns(name: str, features: FeaturePack) -> tuple[str, ...]:
    """Return the columns of a bar that a column is made of: those that read feeds directly."""
    inputs = {column.name: column.inputs for column in features.columns}
    if all(item in schema.FEEDS for item in inputs[name]):
        return (name,)
    found = {raw for item in inputs[name] for raw in _raw_columns(item, features)}
    return tuple(sorted(found))


def _count(own: TfState, day: int, columns: Columns, undo: Undo | None) -> None:
    """Count volume and spread of a bar that is not stale towards the medians of its day."""
    volume, spread = columns["v_total_m_1"], columns["spread_mean_m_1"]
    if volume is not None:
        own.volume.counts.add(volume, day)
    if spread is not None:
        own.spread.counts.add(spread, day)
    if undo is not None:
        undo.counted = (volume, spread)


def _cvd_level(state: NormaliseState, label: int, delta: float | None) -> float | None:
    """Running sum since 00:00 UTC; the bar labelled 00:00 still belongs to the day it closes."""
    day = day_of(label)
    if day != state.level_day:
        state.level, state.level_day = 0.0, day
    if delta is None:
        return None
    state.level = round12(state.level + delta)
    return state.level


native.take_over("normalize", globals())  # plain form only
