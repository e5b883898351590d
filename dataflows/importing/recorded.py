"""Recordings that hold frames: the venue's own, passed on as they are, and another's, translated.

Rules of this file: a venue frame is never rewritten, whatever its data is worth; only what is no
frame at all is dropped, and control records, which belong to the log they were written for.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from dataflows.importing.frames import (
    Framed,
    Head,
    TradeIds,
    bbo_frame,
    level_of,
    present,
    trade_entry,
    trades_frame,
)
from dataflows.importing.layouts import BUYER_IS_MAKER, FrameColumns
from dataflows.importing.presets import Plan
from dataflows.importing.reading import (
    BAD_JSON,
    BAD_TIME,
    RowFault,
    Tally,
    read_objects,
    read_stamped,
    text_of,
)
from dataflows.importing.texts import to_ns

BAD_FRAME = "bad_frame"
CONTROL_RECORD = "control_record"
UNSUPPORTED_FRAME = "unsupported_frame"


class _Envelope(msgspec.Struct):
    channel: str
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Named(msgspec.Struct):
    coin: str | None = None
    s: str | None = None  # a candle's name for it


_envelope = msgspec.json.Decoder(_Envelope)
_named = msgspec.json.Decoder(_Named)
_named_list = msgspec.json.Decoder(list[_Named])


def reshaped(plan: Plan, columns: FrameColumns, tally: Tally) -> Iterator[Framed]:
    """Read JSON lines that hold a venue frame and its time of receipt."""
    for members in read_objects(plan.path, tally):
        try:
            stamp = text_of(members.get(columns.receive.column, b"null"))
            arrival_ns = to_ns(present(stamp), columns.receive.unit)
            framed = _venue_frame(arrival_ns, members.get(columns.frame, b"null"))
        except RowFault as fault:
            tally.reject(fault.reason)
            continue
        except ValueError:
            tally.reject(BAD_TIME)
            continue
        yield framed


def stamped(plan: Plan, dialect: str, tally: Tally) -> Iterator[Framed]:
    """Read `<receive ns> <frame>` lines in the frames of a dialect."""
    convert = _venue_frame if dialect == "venue" else _binance_frame
    for stamp, frame in read_stamped(plan.path, tally):
        try:
            framed = convert(to_ns(stamp, "auto"), frame)
        except RowFault as fault:
            tally.reject(fault.reason)
            continue
        except ValueError:
            tally.reject(BAD_TIME)
            continue
        yield framed


def _venue_frame(arrival_ns: int, frame: bytes) -> Framed:
    """Pass a venue frame on as it is; what its data is worth is for the flow to judge."""
    try:
        envelope = _envelope.decode(frame)
    except msgspec.ValidationError:
        raise RowFault(BAD_FRAME) from None
    except msgspec.DecodeError:
        raise RowFault(BAD_JSON) from None
    if envelope.channel.startswith("alpha."):
        raise RowFault(CONTROL_RECORD)
    names = _names_in(bytes(envelope.data))
    coin = names[0] if names else None
    return Framed(arrival_ns, envelope.channel, coin, len(names), frame)


def _names_in(data: bytes) -> list[str]:
    try:
        named = _named_list.decode(data) if data[:1] == b"[" else [_named.decode(data)]
    except msgspec.DecodeError:
        return []
    return [name for each in named if (name := each.coin or each.s)]


class _BinanceData(msgspec.Struct):
    """Members of a trade (p q m t) and of a book ticker (b B a A), with the trade time T."""

    s: str
    T: int | None = None
    p: str = ""
    q: str = ""
    m: bool | None = None
    t: int | None = None
    b: str = ""
    B: str = ""
    a: str = ""
    A: str = ""


class _BinanceEnvelope(msgspec.Struct):
    stream: str
    data: msgspec.Raw


_binance_envelope = msgspec.json.Decoder(_BinanceEnvelope)
_binance_data = msgspec.json.Decoder(_BinanceData)


def _binance_frame(arrival_ns: int, frame: bytes) -> Framed:
    """Translate a trade or book ticker; spot book tickers have no time and take their arrival."""
    try:
        envelope = _binance_envelope.decode(frame)
        stream = envelope.stream.partition("@")[2]
        if stream not in ("trade", "bookTicker"):
            raise RowFault(UNSUPPORTED_FRAME)
        data = _binance_data.decode(envelope.data)
    except msgspec.ValidationError:
        raise RowFault(UNSUPPORTED_FRAME) from None
    except msgspec.DecodeError:
        raise RowFault(BAD_JSON) from None
    head = Head(arrival_ns, data.T if data.T is not None else arrival_ns // 1_000_000, data.s)
    if stream == "bookTicker":
        return bbo_frame(head, level_of(data.b, data.B), level_of(data.a, data.A))
    cells = (data.p, data.q, _word(data.m), _word(data.t))
    entry = trade_entry(head, cells, BUYER_IS_MAKER, TradeIds())
    return trades_frame((arrival_ns, data.s), [entry])


def _word(value: int | bool | None) -> str:
    """Return a JSON value as the text a cell would hold."""
    return "" if value is None else str(value).lower()
