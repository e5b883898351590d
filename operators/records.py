"""The messages that travel through the flow, in the order they appear.

    Ticks, Boundary -> BarItem -> RowItem -> ScoreItem -> ScoredItem -> Published

Bars that were assembled before come in the place of ticks and boundaries, and pass (decision 16).

Up to the join every step sends exactly one item per asset and phase, even an empty one, so that it
can count (design 3); behind it, only MARKET and those assets have a share of a phase with which
scoring has something to do, and the phase says how many. A phase is one of the two closings of a
minute: sealed (T + lateness) and final (T + grace); imported bars have the second only where a
longer bar ends. `None` means NULL. Column values live in a dict because the feature pack, not this
file, says which columns there are.
"""

from typing import Any

import msgspec

from operators.contract import DeadLetter

Columns = dict[str, Any]

MARKET_UID = -1
MARKET_SYMBOL = "MARKET"


def key_of(asset_uid: int) -> str:
    """Return the engine's key of an asset; the only converter (engine keys are text)."""
    return str(asset_uid)


# --- what the venue said ---------------------------------------------------------------------


class Trade(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One print. px in quote currency, sz in base coins; the taker bought if `is_buy`."""

    arrival_ns: int
    time_ms: int
    px: float
    sz: float
    is_buy: bool
    tid: int


class Quote(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Best bid and offer, full state; a missing side is None."""

    arrival_ns: int
    time_ms: int
    bid_px: float | None
    bid_sz: float | None
    ask_px: float | None
    ask_sz: float | None


class Book(msgspec.Struct, frozen=True, array_like=True):
    """Snapshot of the top levels, best first; (px, sz) each."""

    arrival_ns: int
    time_ms: int
    bids: tuple[tuple[float, float], ...]
    asks: tuple[tuple[float, float], ...]


class Context(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Perp state. It carries no venue time, so it is dated by arrival (design D1)."""

    arrival_ns: int
    open_interest_base: float | None
    mark_px: float | None
    oracle_px: float | None
    funding_rate: float | None


class Asset(msgspec.Struct, frozen=True):
    """A roster entry: the venue's id, its name, and the feeds that are subscribed for it."""

    asset_uid: int
    symbol: str
    channels: tuple[str, ...]


class Ticks(msgspec.Struct):
    """What arrived for one asset in one micro-batch: records in arrival order, as they lie in
    memory (operators/layout.py); rejects : messages that were none, by reason."""

    trades: bytearray = msgspec.field(default_factory=bytearray)
    quotes: bytearray = msgspec.field(default_factory=bytearray)
    books: bytearray = msgspec.field(default_factory=bytearray)
    contexts: bytearray = msgspec.field(default_factory=bytearray)
    rejects: dict[str, int] = {}


class Feed(msgspec.Struct, frozen=True):
    """Health of the recording over one minute, the same for every asset.

    gap : cause of the hole that overlaps the minute, None if there is none. outage : a hole covers
    all of it. resync : a hole ended within it.
    last_frame_ms : arrival of the newest venue frame before the close, None before the first.
    clock_skew_ms : third-smallest receive delay of the minute; None if nothing dated arrived.
    """

    gap: str | None = None
    outage: bool = False
    resync: bool = False
    last_frame_ms: int | None = None
    clock_skew_ms: int | None = None


class Phase(msgspec.Struct, frozen=True, order=True):
    """One closing of a minute. `n_assets` items make it complete in a join.

    follows : number of the closing before it, so that a join can wait for one of which it has heard
    nothing; 0 where that is not known.
    alone : no final phase comes after this sealed one: nothing can amend it, no longer bar ends.
    """

    minute_ms: int
    final: bool
    n_assets: int
    clock_ms: int
    follows: int = 0
    alone: bool = False

    @property
    def number(self) -> int:
        """Number closings in their order: twice the minute, plus one when final."""
        return 2 * self.minute_ms + self.final


class Boundary(msgspec.Struct, frozen=True):
    """Close a minute for one asset; comes after the last of its data on the same path."""

    phase: Phase
    asset: Asset
    feed: Feed


class Handover(msgspec.Struct, frozen=True):
    """Where bars that were assembled before end and ticks go on: what assembly knew of the asset.

    state : as its codec wrote it (operators/assemble.py); it replaces what the step knows.
    """

    state: bytes


# --- what the steps make of it ---------------------------------------------------------------


class Bar(msgspec.Struct, frozen=True):
    """Raw columns of one asset-minute, floats rounded to 12 significant digits.

    extras : what is on trial and has no column of its own (build plan 20.2).
    """

    asset_uid: int
    symbol: str
    exchange_ts_ms: int
    revision: int
    columns: Columns
    extras: Columns = {}


class BarItem(msgspec.Struct, frozen=True):
    """An asset's share of a phase after assembly; a final phase without amendment has no bar."""

    phase: Phase
    asset_uid: int
    bar: Bar | None


class BarItems(msgspec.Struct, frozen=True):
    """An asset's shares of some phases that come at once, in their order."""

    items: tuple[BarItem, ...]


class Row(msgspec.Struct, frozen=True):
    """One feature row. `extras` holds what has no typed column, e.g. clamp bounds by z column."""

    asset_uid: int
    symbol: str
    tf: str
    exchange_ts_ms: int
    revision: int
    columns: Columns
    extras: dict[str, Any] = {}


class Candidate(msgspec.Struct, frozen=True):
    """A trigger that held. `gate` is the first quality gate that forbids publication, or None."""

    detector_id: str
    primary: float
    secondary: float
    gate: str | None


class BaselineState(msgspec.Struct, frozen=True):
    """A baseline of one column as it stood when the bar labelled `updated_ms` had moved it.

    column : as on rows of the timeframe. n : accepted samples. mu, sigma : location and scale in
    transformed units, None while there are too few samples for a z. content : all of it, with a
    digest (decision 8).
    """

    asset_uid: int
    tf: str
    column: str
    feature_pack: str
    updated_ms: int
    n: int
    mu: float | None
    sigma: float | None
    content: bytes


class RowItem(msgspec.Struct, frozen=True):
    """An asset's rows of a phase, each with the candidates found on it.

    baselines : those of the asset, once an hour, where they are stored; they go no further.
    """

    phase: Phase
    asset_uid: int
    rows: tuple[Row, ...]
    candidates: tuple[tuple[Candidate, ...], ...] = ()
    baselines: tuple[BaselineState, ...] = ()


class RowItems(msgspec.Struct, frozen=True):
    """Items of one phase that came together, each of another asset."""

    phase: Phase
    items: tuple[RowItem, ...]


class Frame(msgspec.Struct, frozen=True):
    """Cross-asset context of one timeframe and minute; `extras` as in a row."""

    tf: str
    exchange_ts_ms: int
    revision: int
    columns: Columns
    extras: Columns = {}


class ScoreItem(msgspec.Struct, frozen=True):
    """A row with its candidates and the frame of its timeframe, on the way back to its asset.

    tier : liquidity tier of the asset in this minute, a key of the pack's `overrides.tiers`.
    """

    phase: Phase
    asset_uid: int
    rows: tuple[Row, ...]
    candidates: tuple[tuple[Candidate, ...], ...]
    frames: tuple[Frame, ...]
    tier: str = "mid"


class Draft(msgspec.Struct, frozen=True):
    """A scored event before the cross-asset budget; `payload` is the contract's JSON object.

    direction : of the price over the detector's window, 1 up, -1 down, 0 unmoved or unknown.
    revision : of the row. shadow : for the shadow topic, by the detector's mode.
    """

    asset_uid: int
    detector_id: str
    event_class: str
    severity: int
    payload: dict[str, Any]
    direction: int = 0
    revision: int = 0
    shadow: bool = False


class Suppression(msgspec.Struct, frozen=True):
    """A candidate that was not published, with the one reason why.

    state : None for most; `level_shift` on the candidate with which a detector is muted because it
    has fired all along; `closed` on the note that ends it, which is no candidate and not counted.
    """

    asset_uid: int
    symbol: str
    tf: str
    exchange_ts_ms: int
    revision: int
    detector_id: str
    reason: str
    severity: int | None
    state: str | None = None


class ScoredItem(msgspec.Struct, frozen=True):
    """An asset's share of a phase after scoring; n_candidates lets the budget reconcile.

    closed : notes on detectors that were muted and are silent again.
    """

    phase: Phase
    asset_uid: int
    drafts: tuple[Draft, ...]
    suppressed: tuple[Suppression, ...]
    n_candidates: int
    closed: tuple[Suppression, ...] = ()


class Published(msgspec.Struct, frozen=True):
    """A phase's events and suppressions, complete and in order.

    dead : events that broke the contract; each has a suppression too. shadow : events for the
    shadow topic, of detectors or of a run that nobody shall act on yet.
    """

    phase: Phase
    events: tuple[dict[str, Any], ...]
    suppressed: tuple[Suppression, ...]
    dead: tuple[DeadLetter, ...] = ()
    shadow: tuple[dict[str, Any], ...] = ()


class Change(msgspec.Struct, frozen=True):
    """One revision of the universe's membership, for the audit; reasons by asset_uid.

    missing_oi : of the members and those that moved, the assets ranked by volume alone.
    """

    revision: int
    exchange_ts_ms: int
    added: tuple[int, ...]
    removed: tuple[int, ...]
    reasons: dict[str, str]
    missing_oi: tuple[int, ...] = ()


class HotMove(msgspec.Struct, frozen=True):
    """A change of the hotlist, for the audit; it has no revision (plan 7.4, 12.2).

    move : added, prolonged or expired. reason, started_ms, expires_ms : of the entry after the
    move; of the entry that ended, if it expired.
    """

    exchange_ts_ms: int
    asset_uid: int
    move: str
    reason: str
    started_ms: int
    expires_ms: int


class TierMove(msgspec.Struct, frozen=True):
    """An asset's change of liquidity tier, for the audit."""

    asset_uid: int
    former: str
    tier: str


class Audit(msgspec.Struct, frozen=True):
    """Why the assets of a minute are listened to: what changed in it.

    deferred : assets whose entry or exit the churn cap began to put off.
    """

    change: Change | None = None
    hot: tuple[HotMove, ...] = ()
    tiers: tuple[TierMove, ...] = ()
    deferred: tuple[int, ...] = ()


class MarketPhase(msgspec.Struct, frozen=True):
    """A phase after the join: frames, and every row with its membership, in asset order."""

    phase: Phase
    frames: tuple[Frame, ...]
    rows: tuple[Row, ...]
    audit: Audit = Audit()
