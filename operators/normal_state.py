"""What normalisation remembers of an asset, how a bar is taken back, and how it is stored.

Rules of this file: an amendment restores the state before its bar exactly (design D13, numerics
11.7); each baseline is stored as bytes with a checksum of its own, so that a damaged one is found,
starts anew and is reported, while the others go on (build plan 4.6).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from struct import Struct

import msgspec
from msgspec.structs import replace

from operators.baselines import (
    Baseline,
    Checkpoint,
    CorruptState,
    Robust,
    Transform,
    body_of,
    checkpoint_of,
    dump,
    fresh,
    load_body,
    restore,
    stored_checkpoint,
)
from operators.bases import Base, aside
from operators.formulas.rolling_median import DailyCounts
from operators.history import History
from operators.inputs import Player, Rules
from operators.lattice import MINUTE_MS, day_of
from operators.records import BarItem, BaselineState
from operators.rollup import Part
from packs.schema import MINUTE_TF, Timeframe

STATE_VERSION = 4
SINCE_VERSION = 5  # of a state that is stored without its baselines
RENEWAL_MINUTES = 60
RECORDS_MAX = 4 * RENEWAL_MINUTES  # of minutes since a base, in a stream without snapshots
ALL = "all"  # in place of a timeframe or feature: the whole state was lost
Transforms = Mapping[Timeframe, Mapping[str, Transform]]  # by feature
_CHECKSUM = Struct("<I")
_MSGPACK = Struct(">BI")  # a kind of MessagePack, and how many follow
_BYTES, _MAP = 0xC6, 0xDF


class Gate(msgspec.Struct):
    """The running median behind one illiquidity gate, NULL before the first value.

    recent : of the sketch. settled : over the last completed days, as of `day`; NULL while the
    asset is younger. counts : the values by day.
    """

    recent: float | None = None
    settled: float | None = None
    day: int = -1
    counts: DailyCounts = msgspec.field(default_factory=DailyCounts)


class TfState(msgspec.Struct):
    """What normalisation remembers of one timeframe; `parts` are its rows for the next longer."""

    history: History = msgspec.field(default_factory=History)
    baselines: dict[str, Baseline] = {}
    volume: Gate = msgspec.field(default_factory=Gate)
    spread: Gate = msgspec.field(default_factory=Gate)
    parts: list[Part] = []
    last_ms: int = 0


class Undo(msgspec.Struct):
    """What the newest minute changed, so that an amendment can take it back (design D13).

    medians : recent, settled and day of both gates. counted : what was added to their counts.
    """

    medians: list[tuple[float | None, float | None, int]]
    level: float
    level_day: int
    last_ms: int
    checkpoints: dict[str, Checkpoint] = {}
    counted: tuple[float | None, float | None] = (None, None)


class Reset(msgspec.Struct, frozen=True):
    """A baseline that was damaged in storage and starts anew."""

    tf: str
    feature: str
    reason: str


class WarmStart(msgspec.Struct, frozen=True):
    """An asset began with stored baselines, in the bar of a label. updated_ms : of the newest."""

    label_ms: int
    updated_ms: int
    count: int


class Since(msgspec.Struct):
    """What the baselines of an asset were given since their base.

    base : number of that in the store, 0 without one: then the whole state is stored. logs :
    records by timeframe. handed : number of a newer base on its way to the store, 0 without one; it
    is not stored. offered : how long the logs were when a newer base was made, by its number. A
    kill in the epoch that writes one may leave it in the store though that epoch counts for
    nothing, and a later resume finds it there: it is as good as the one that is referred to.
    """

    asset_uid: int
    base: int = 0
    logs: dict[Timeframe, bytearray] = {}
    handed: int = 0
    offered: dict[int, dict[Timeframe, int]] = {}


class NormaliseState(msgspec.Struct):
    """Everything normalisation remembers of one asset.

    level, level_day : cumulative volume delta of the day. layout : of the parts, so that those of
    another pack are not misread. resets : baselines lost in storage. reported : a row said so.
    warm : how it began, None if with nothing. since : None where nobody stores the state in parts.
    """

    version: int = STATE_VERSION
    symbol: str = ""
    layout: str = ""
    tfs: dict[Timeframe, TfState] = {}
    level: float = 0.0
    level_day: int = -1
    undo: Undo | None = None
    resets: list[Reset] = []
    reported: bool = False
    warm: WarmStart | None = None
    since: Since | None = None


def forget_parts(state: NormaliseState, layout: str) -> None:
    """Drop the parts that another pack wrote: their values mean other columns."""
    for own in state.tfs.values():
        own.parts = []
    state.layout = layout


def state_of(state: NormaliseState, tf: Timeframe) -> TfState:
    """Return the state of a timeframe, made when it is first asked for."""
    own = state.tfs.get(tf)
    if own is None:
        own = state.tfs[tf] = TfState()
    return own


def undo_of(state: NormaliseState, own: TfState) -> Undo:
    """Return what is needed to take back the bar that comes next."""
    gates = (own.volume, own.spread)
    medians = [(gate.recent, gate.settled, gate.day) for gate in gates]
    return Undo(medians, state.level, state.level_day, own.last_ms)


def take_back(state: NormaliseState, own: TfState, label: int) -> None:
    """Undo the bar that is being amended."""
    undo = state.undo
    assert undo is not None, label
    assert own.last_ms == label, (own.last_ms, label)
    for feature, saved in undo.checkpoints.items():
        restore(own.baselines[feature], saved)
    gates = (own.volume, own.spread)
    for gate, counted, medians in zip(gates, undo.counted, undo.medians, strict=True):
        if counted is not None:
            gate.counts.remove(counted, day_of(label))
        gate.recent, gate.settled, gate.day = medians
    state.level, state.level_day, own.last_ms = undo.level, undo.level_day, undo.last_ms
    own.history.pop()
    if own.parts:  # none when another pack wrote them
        own.parts.pop()
    state.undo = None


def handed_out(
    state: NormaliseState,
    asset_uid: int,
    feature_pack: str,
    sources: Mapping[Timeframe, Mapping[str, str]],
) -> tuple[BaselineState, ...]:
    """Return the baselines of an asset that have a sample, each as it is stored.

    sources : by timeframe, the feature of each column that has a baseline.
    """
    found = []
    for tf, own in state.tfs.items():
        for column, feature in sources[tf].items():
            baseline = own.baselines.get(feature)
            if baseline is None or not baseline.n or baseline.last_ts_ms is None:
                continue
            young = bool(baseline.buf)
            mu, sigma = (None, None) if young else (baseline.m, math.sqrt(baseline.v))
            found.append(
                BaselineState(
                    *(asset_uid, tf, column, feature_pack, baseline.last_ts_ms),
                    *(baseline.n, mu, sigma, dump(baseline)),
                )
            )
    return tuple(found)


# --- storage -------------------------------------------------------------------------------------


def _guarded(content: bytes) -> tuple[bytes, bytes, bytes]:
    """Return bytes behind their checksum, as MessagePack, in pieces that are copied once."""
    size = _CHECKSUM.size + len(content)
    return _MSGPACK.pack(_BYTES, size), _CHECKSUM.pack(zlib.crc32(content)), content


def _content(guarded: bytes) -> bytes:
    """Return what `_guarded` was given; CorruptState for other bytes."""
    content = guarded[_CHECKSUM.size :]
    if _CHECKSUM.pack(zlib.crc32(content)) != guarded[: _CHECKSUM.size]:
        raise CorruptState("the checksum does not match the content")
    return content


def _refer_to(since: Since, number: int) -> None:
    """Drop what a newer base contains."""
    for tf, mark in since.offered[number].items():
        del since.logs[tf][:mark]
    since.base, since.handed, since.offered = number, 0, {}


def _transforms_of(rules: Rules) -> Transforms:
    return {
        tf: {rule.feature.name: rule.feature.transform for rule in own}
        for tf, own in rules.tfs.items()
    }


def _checkpoint(_: type, stored: object) -> Checkpoint:
    return checkpoint_of(stored)


class _Stored(msgspec.Struct):
    """A state or a base as it is stored: each baseline is bytes behind a checksum of its own.

    rest : everything else, behind a checksum; of a base its rules.
    """

    rest: bytes
    baselines: dict[Timeframe, dict[str, bytes]]


class _Version(msgspec.Struct):
    """What tells whether the rest can be read."""

    version: int


class NormaliseCodec:
    """State to bytes and back. A damaged baseline starts anew and is reported with the next row.

    A state is whole, or what came since a base (operators/bases.py): that is read by `decode` and
    `restore`, and has no baselines before the latter.
    """

    def __init__(
        self,
        robust: Robust,
        layout: str,
        known: Mapping[Timeframe, tuple[str, ...]],
        rules: Rules,
    ) -> None:
        """known : the features that have a baseline, by timeframe. rules : how they move."""
        self._robust = robust
        self._transforms = _transforms_of(rules)
        self._layout = layout
        self._known = known
        self._decode = msgspec.msgpack.Decoder(_Stored).decode
        self._decode_version = msgspec.msgpack.Decoder(_Version).decode
        self._decode_rest = msgspec.msgpack.Decoder(NormaliseState, dec_hook=_checkpoint).decode
        self._decode_rules = msgspec.msgpack.Decoder(Rules).decode
        self._encode = msgspec.msgpack.Encoder(enc_hook=stored_checkpoint).encode
        self._rules = self._encode(rules)

    def encode(self, state: NormaliseState) -> bytes:
        """Return the bytes of a state: a `_Stored`, put together here, because it is large."""
        since, undo = state.since, state.undo
        bare = {tf: replace(own, baselines={}) for tf, own in state.tfs.items()}
        if since is None or not since.base:
            rest = self._encode(replace(state, tfs=bare, since=None))
            return self._stored(rest, state.tfs)
        since = replace(since, handed=0)
        if undo is not None:  # what takes the newest record back is made again with it
            undo = replace(undo, checkpoints={})
        bare_state = replace(state, version=SINCE_VERSION, tfs=bare, undo=undo, since=since)
        return self._stored(self._encode(bare_state), {})

    def _stored(self, rest: bytes, tfs: Mapping[Timeframe, TfState]) -> bytes:
        pieces = [_MSGPACK.pack(_MAP, 2), self._encode("rest"), *_guarded(rest)]
        pieces += self._encode("baselines"), _MSGPACK.pack(_MAP, len(tfs))
        for tf, own in tfs.items():
            pieces += self._encode(tf), _MSGPACK.pack(_MAP, len(own.baselines))
            for name, found in own.baselines.items():
                pieces += self._encode(name), *_guarded(body_of(found))
        return b"".join(pieces)

    def decode(self, data: bytes) -> NormaliseState:
        """Return the state; where bytes are damaged, what they held starts anew."""
        try:
            stored = self._decode(data)
            rest = _content(stored.rest)
            version = self._decode_version(rest).version
            if version not in (STATE_VERSION, SINCE_VERSION):
                return self._lost(f"expected version {STATE_VERSION}, found {version}")
            state = self._decode_rest(rest)
        except (CorruptState, msgspec.DecodeError, UnicodeDecodeError) as error:
            return self._lost(str(error))
        state.version = STATE_VERSION
        if version == STATE_VERSION:
            self._load(state, stored.baselines)
            self._drop_unfit(state, self._transforms)
        assert (state.since is None) == (version == STATE_VERSION), version
        return state

    def _load(self, state: NormaliseState, stored: dict[Timeframe, dict[str, bytes]]) -> None:
        """Give a state its baselines."""
        for tf, baselines in stored.items():
            for feature, guarded in baselines.items():
                if tf not in state.tfs or feature not in self._known[tf]:
                    state.resets.append(Reset(tf, feature, "a name that nobody knows"))
                    continue
                try:
                    state.tfs[tf].baselines[feature] = load_body(_content(guarded))
                except CorruptState as error:
                    self._reset(state, tf, feature, str(error))
        if state.undo is not None:
            kept = state.tfs[MINUTE_TF].baselines if MINUTE_TF in state.tfs else {}
            saved = state.undo.checkpoints
            state.undo.checkpoints = {name: saved[name] for name in saved if name in kept}

    def _lost(self, reason: str) -> NormaliseState:
        return NormaliseState(layout=self._layout, resets=[Reset(ALL, ALL, reason)])

    def _reset(self, state: NormaliseState, tf: Timeframe, feature: str, reason: str) -> None:
        state.tfs[tf].baselines[feature] = fresh(self._robust)
        state.resets.append(Reset(tf, feature, reason))
        if state.undo is not None and tf == MINUTE_TF:
            state.undo.checkpoints.pop(feature, None)

    def _drop_unfit(self, state: NormaliseState, former: Transforms) -> None:
        """Begin anew the baselines that cannot go on under the pack at hand.

        Their first samples are kept as long as there are too few for a z, and what they learned is
        in transformed units. former : the transforms that they moved by.
        """
        least = self._robust.min_samples
        for tf, own in state.tfs.items():
            for name, baseline in own.baselines.items():
                was, now = former[tf].get(name), self._transforms[tf].get(name)
                if was != now:
                    self._reset(state, tf, name, f"the transform was {was}, now it is {now}")
                elif baseline.n and (baseline.n < least) != bool(baseline.buf):
                    reason = f"{baseline.n} samples were accepted under another robust.min_samples"
                    self._reset(state, tf, name, reason)

    # --- a base and what came since --------------------------------------------------------------

    def begin(self, state: NormaliseState, item: BarItem) -> Base | None:
        """Return the first base of a state, before it sees the bar of an item; None where a minute
        may yet be taken back."""
        if item.bar is None or item.phase.final or state.undo is not None:
            return None
        state.since = Since(item.asset_uid)
        return self._base(state, state.since, item)

    def renew(self, state: NormaliseState, item: BarItem) -> Base | None:
        """Return a newer base of a state, behind an item; None where it is not yet time for one.

        It is time in one minute of the hour, that of the asset, with the phase behind which nothing
        can be taken back; but never while a base is on its way.
        """
        phase, since = item.phase, state.since
        assert since is not None
        if not (phase.final or phase.alone) or since.handed:
            return None
        if phase.minute_ms // MINUTE_MS % RENEWAL_MINUTES != item.asset_uid % RENEWAL_MINUTES:
            return None
        return self._base(state, since, item)

    def _base(self, state: NormaliseState, since: Since, item: BarItem) -> Base:
        since.handed = item.phase.number
        since.offered[since.handed] = {tf: len(log) for tf, log in since.logs.items()}
        content = self._stored(self._rules, state.tfs)
        return Base(item.asset_uid, since.handed, aside(content))

    def take_up(self, state: NormaliseState, number: int) -> None:
        """Refer to a base from now on: the store has it with this epoch."""
        since = state.since
        if since is None or since.handed != number:  # the whole state is stored by now
            return
        _refer_to(since, number)

    def restore(self, state: NormaliseState, base: Base | None) -> None:
        """Make the baselines of a state that `decode` read without them.

        base : that of the store. Without the right one all baselines begin anew, and it is said.
        """
        since = state.since
        assert since is not None
        try:
            if base is not None and base.number in since.offered:
                _refer_to(since, base.number)
            if base is None or base.number != since.base:
                raise CorruptState(f"the recovery store lacks base {since.base}")
            stored = self._decode(base.content)
            content = _content(stored.rest)
            rules = self._decode_rules(content)
        except (CorruptState, msgspec.DecodeError, UnicodeDecodeError) as error:
            state.since = None
            state.resets.append(Reset(ALL, ALL, str(error)))
            return
        self._load(state, stored.baselines)
        for tf, log in since.logs.items():
            own, known = state.tfs[tf].baselines, self._known[tf]
            undo = Player(rules.tfs[tf], rules.robust).play(own, log)
            for name in [name for name in own if name not in known]:  # of another pack
                del own[name]
            if state.undo is not None and tf == MINUTE_TF:
                state.undo.checkpoints = {name: undo[name] for name in undo if name in known}
        self._drop_unfit(state, _transforms_of(rules))
        if content != self._rules:  # records to come would not be as those before
            state.since = None
