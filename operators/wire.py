"""Decode venue frames and our own control records; pure, no sockets.

Rules of this file: a frame that cannot be decoded raises `Reject` with a reason and costs nothing
but itself; a bad entry inside a good frame costs only that entry; numbers arrive as decimal text.
Shapes: the venue's WebSocket channels (trades, bbo, l2Book slow and fast, activeAssetCtx,
activeSpotAssetCtx, allDexsAssetCtxs, candle, allMids, subscriptionResponse, pong, error) and
`alpha.*` (design 2).
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import msgspec

from operators.layout import LEVELS
from operators.records import Book, Context, Quote, Trade

NOT_JSON = "not_json"
UNKNOWN_CHANNEL = "unknown_channel"
WRONG_SHAPE = "wrong_shape"
BAD_PRICE = "bad_price"
BAD_SIZE = "bad_size"
BAD_SIDE = "bad_side"
BAD_TIME = "bad_time"

PX_MAX = 1e12
SZ_MAX = 1e15
TIME_MS_MAX = 4_102_444_800_000  # year 2100

# Whatever is kept must fit the 64 bits of a snapshot.
Id = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
TimeMs = Annotated[int, msgspec.Meta(ge=0, lt=TIME_MS_MAX)]


class Reject(Exception):
    """A frame that was dropped; `reason` is its counter."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


# --- frames as the venue sends them ----------------------------------------------------------


class WireTrade(msgspec.Struct, gc=False):
    """One entry of a trades frame; `side` B means the taker bought."""

    coin: str
    side: str
    px: float
    sz: float
    time: int
    tid: Id


class WireLevel(msgspec.Struct, gc=False):
    """A price level: price and size in base coins."""

    px: float
    sz: float


class WireTrades(msgspec.Struct, tag_field="channel", tag="trades"):
    """Prints of one coin, in any order."""

    data: list[WireTrade]


class WireBboData(msgspec.Struct):
    """Best bid and ask; either may be null."""

    coin: str
    time: int
    bbo: tuple[WireLevel | None, WireLevel | None]


class WireBbo(msgspec.Struct, tag_field="channel", tag="bbo"):
    """A change of the best bid or ask."""

    data: WireBboData


class WireBookData(msgspec.Struct):
    """Full snapshot: bids descending, asks ascending."""

    coin: str
    time: int
    levels: tuple[list[WireLevel], list[WireLevel]]
    fast: bool = False


class WireBook(msgspec.Struct, tag_field="channel", tag="l2Book"):
    """A book snapshot, 20 levels or 5 when `fast`."""

    data: WireBookData


class WireCtx(msgspec.Struct, gc=False):
    """Perp context; null without a book. Open interest in base coins, funding per hour."""

    openInterest: float | None = None
    markPx: float | None = None
    oraclePx: float | None = None
    funding: float | None = None


class WireCoinCtx(msgspec.Struct):
    """Context of a named coin."""

    coin: str
    ctx: WireCtx


class WireAssetCtx(msgspec.Struct, tag_field="channel", tag="activeAssetCtx"):
    """Context of one perp, about once a second; carries no time."""

    data: WireCoinCtx


class WireSpotCtx(msgspec.Struct, tag_field="channel", tag="activeSpotAssetCtx"):
    """Context of one spot pair: no open interest, funding or oracle."""

    data: WireCoinCtx


class WireAllCtxsData(msgspec.Struct):
    """(dex name, contexts by index in that dex's universe) for every dex."""

    ctxs: list[tuple[str, list[WireCtx | None]]]


class WireAllCtxs(msgspec.Struct, tag_field="channel", tag="allDexsAssetCtxs"):
    """Contexts of the whole venue, positional."""

    data: WireAllCtxsData


class WireCandleData(msgspec.Struct):
    """Running state of a candle: open ms, close ms inclusive, prices, base volume, trades."""

    t: int
    T: int
    s: str
    i: str
    o: float
    c: float
    h: float
    l: float  # noqa: E741 - the venue's name
    v: float
    n: int


class WireCandle(msgspec.Struct, tag_field="channel", tag="candle"):
    """A candle update; never says that it is the last."""

    data: WireCandleData


class WireMidsData(msgspec.Struct):
    """Coin name to mid price."""

    mids: dict[str, float]


class WireMids(msgspec.Struct, tag_field="channel", tag="allMids"):
    """Mids of a whole dex."""

    data: WireMidsData


class WireAckData(msgspec.Struct):
    """The subscription as the venue normalised it."""

    method: str
    subscription: dict[str, Any]


class WireAck(msgspec.Struct, tag_field="channel", tag="subscriptionResponse"):
    """A (un)subscription was accepted."""

    data: WireAckData


class WirePong(msgspec.Struct, tag_field="channel", tag="pong"):
    """Answer to our ping; has no data."""


class WireError(msgspec.Struct, tag_field="channel", tag="error"):
    """The venue's complaint, as text."""

    data: str


# --- control records -------------------------------------------------------------------------


class Clock(msgspec.Struct, tag_field="channel", tag="alpha.clock"):
    """Heartbeat: nothing arrived, time went on."""


class RosterAsset(msgspec.Struct):
    """An asset that exists: the venue's id, its name, its subscribed feeds."""

    uid: Id
    coin: str
    channels: tuple[str, ...] = ()


class RosterData(msgspec.Struct):
    """`from_ms` is the label of the first minute this roster holds for."""

    from_ms: TimeMs
    assets: list[RosterAsset]
    dexes: tuple[str, ...] = ("",)


class Roster(msgspec.Struct, tag_field="channel", tag="alpha.roster"):
    """Which assets exist from which minute."""

    data: RosterData


class GapData(msgspec.Struct):
    """A hole in the recording; `end_ms` is null while it lasts."""

    start_ms: TimeMs
    cause: str
    end_ms: TimeMs | None = None


class Gap(msgspec.Struct, tag_field="channel", tag="alpha.gap"):
    """The feed was lost, or came back."""

    data: GapData


class RestContextData(msgspec.Struct):
    """A `metaAndAssetCtxs` answer of one dex."""

    answer: tuple[dict[str, Any], list[WireCtx | None]]
    dex: str = ""


class RestContext(msgspec.Struct, tag_field="channel", tag="alpha.context"):
    """Perp contexts fetched over REST: bootstrap and fallback (design D1)."""

    data: RestContextData


class Config(msgspec.Struct, tag_field="channel", tag="alpha.config"):
    """A pack change, effective from a minute."""

    data: dict[str, Any]


Frame = (
    WireTrades
    | WireBbo
    | WireBook
    | WireAssetCtx
    | WireSpotCtx
    | WireAllCtxs
    | WireCandle
    | WireMids
    | WireAck
    | WirePong
    | WireError
    | Clock
    | Roster
    | Gap
    | RestContext
    | Config
)

CONTROL = (Clock, Roster, Gap, RestContext, Config)

_decode_frame = msgspec.json.Decoder(Frame, strict=False).decode


class _Envelope(msgspec.Struct):
    channel: str
    data: msgspec.Raw = msgspec.Raw(b"null")


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_entries = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_trade = msgspec.json.Decoder(WireTrade, strict=False).decode
# Text that is not UTF-8 is no error of the decoder's own.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError)
_CHANNELS = frozenset(struct.__struct_config__.tag for struct in Frame.__args__)


def decode(frame: bytes) -> tuple[Frame, int]:
    """Return the typed frame and how many of its entries had to be dropped as malformed.

    Raises `Reject` when nothing of the frame can be used.
    """
    try:
        return _decode_frame(frame), 0
    except _UNREADABLE:
        return _salvage(frame)
    except RecursionError:
        raise Reject(WRONG_SHAPE) from None


def _salvage(frame: bytes) -> tuple[Frame, int]:
    """Find out what is wrong with a frame and keep the good entries of a trades frame."""
    try:
        envelope = _decode_envelope(frame)
    except msgspec.ValidationError:
        raise Reject(WRONG_SHAPE) from None
    except RecursionError:
        raise Reject(WRONG_SHAPE) from None
    except _UNREADABLE:
        raise Reject(NOT_JSON) from None
    if envelope.channel not in _CHANNELS:
        raise Reject(UNKNOWN_CHANNEL)
    if envelope.channel != "trades":
        raise Reject(WRONG_SHAPE)
    try:
        entries = _decode_entries(envelope.data)
    except (*_UNREADABLE, RecursionError):
        raise Reject(WRONG_SHAPE) from None
    good: list[WireTrade] = []
    for entry in entries:
        try:
            good.append(_decode_trade(entry))
        except (*_UNREADABLE, RecursionError):
            continue
    if not good:
        raise Reject(WRONG_SHAPE)
    return WireTrades(good), len(entries) - len(good)


# --- frames to records -----------------------------------------------------------------------


def trade_of(wire: WireTrade, arrival_ns: int) -> Trade | str:
    """Return the print, or the reason why it cannot be one."""
    if not 0.0 < wire.px < PX_MAX:  # also false for NaN
        return BAD_PRICE
    if not 0.0 < wire.sz < SZ_MAX:
        return BAD_SIZE
    if wire.side not in ("A", "B"):
        return BAD_SIDE
    if not 0 < wire.time < TIME_MS_MAX:
        return BAD_TIME
    return Trade(arrival_ns, wire.time, wire.px, wire.sz, wire.side == "B", wire.tid)


def quote_of(wire: WireBboData, arrival_ns: int) -> Quote | str:
    """Return the top of book (a missing side is None), or the reason why it cannot be one."""
    bid, ask = wire.bbo
    if (reason := _level_fault(bid) or _level_fault(ask)) is not None:
        return reason
    if not 0 < wire.time < TIME_MS_MAX:
        return BAD_TIME
    return Quote(
        arrival_ns,
        wire.time,
        bid.px if bid else None,
        bid.sz if bid else None,
        ask.px if ask else None,
        ask.sz if ask else None,
    )


def book_of(wire: WireBookData, arrival_ns: int) -> Book | str:
    """Return the top levels of a snapshot, or the reason why it cannot be one."""
    sides = tuple(tuple((lv.px, lv.sz) for lv in side[:LEVELS]) for side in wire.levels)
    for side in wire.levels:
        for level in side[:LEVELS]:
            if (reason := _level_fault(level)) is not None:
                return reason
    if not 0 < wire.time < TIME_MS_MAX:
        return BAD_TIME
    return Book(arrival_ns, wire.time, sides[0], sides[1])


def context_of(wire: WireCtx, arrival_ns: int) -> Context | str:
    """Return perp state; members the venue sent as null stay None."""
    if wire.markPx is not None and not 0.0 < wire.markPx < PX_MAX:
        return BAD_PRICE
    if wire.oraclePx is not None and not 0.0 <= wire.oraclePx < PX_MAX:
        return BAD_PRICE
    if wire.openInterest is not None and not 0.0 <= wire.openInterest < SZ_MAX:
        return BAD_SIZE
    if wire.funding is not None and not math.isfinite(wire.funding):
        return BAD_PRICE
    index = wire.oraclePx or None  # an index of zero is no index (build plan 8.4)
    return Context(arrival_ns, wire.openInterest, wire.markPx, index, wire.funding)


def _level_fault(level: WireLevel | None) -> str | None:
    if level is None:
        return None
    if not 0.0 < level.px < PX_MAX:
        return BAD_PRICE
    if not 0.0 < level.sz < SZ_MAX:
        return BAD_SIZE
    return None
