"""Imported minute bars as items of the flow: they enter at normalisation.  Design 3.

Rules of this file: a symbol joins the roster when it is first seen and gets its id in order
of appearance; from then on it has one bar in every minute, `stale` with reason `gap` where the
file has none; a bars file has no quotes, so its close stands in for the mid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec

from operators import native
from operators.kernel import fill_bar
from operators.lattice import MINUTE_MS, iso
from operators.quality import grade, prices_at_odds
from operators.records import Bar, BarItem, Columns, Phase
from operators.verdicts import DQ_OK
from packs.schema import TIMEFRAME_MIN

SOURCE = "bars"
# A hole longer than this is skipped: its minutes get no rows and are counted.
HOLE_MS_MAX = 7 * 86_400_000
# At its ends the rows of longer bars leave, with the final phase: that of the shortest of them.
LONGER_MS = TIMEFRAME_MIN["15m"] * MINUTE_MS


class RawBar(Protocol):
    """One symbol's minute as the file has it; volumes in quote currency."""

    @property
    def open(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def close(self) -> float: ...
    @property
    def volume_quote(self) -> float: ...
    @property
    def trade_count(self) -> int | None: ...
    @property
    def taker_buy_quote(self) -> float | None: ...


class BarsState(msgspec.Struct):
    """Symbols in order of their ids, and the last minute that was closed."""

    symbols: list[str] = []
    last_ms: int = 0
    minutes_skipped: int = 0


def close_minutes(state: BarsState, close_ms: int, bars: Mapping[str, RawBar]) -> list[BarItem]:
    """Return the items of every minute up to and including `close_ms`: sealed, and final where a
    longer bar ends; nothing amends an imported bar, so elsewhere that would say nothing."""
    assert close_ms > state.last_ms, f"minute {close_ms} after {state.last_ms}"
    first = state.last_ms + MINUTE_MS if state.last_ms else close_ms
    if close_ms - first > HOLE_MS_MAX:
        state.minutes_skipped += (close_ms - first) // MINUTE_MS
        first = close_ms
    items: list[BarItem] = []
    for label in range(first, close_ms, MINUTE_MS):
        items += _close_minute(state.symbols, label, {})
    pass_over(state, close_ms, bars)
    items += _close_minute(state.symbols, close_ms, bars)
    return items


def pass_over(state: BarsState, close_ms: int, symbols: Iterable[str]) -> None:
    """Give the symbols of a minute their ids, and take the minute as the last one."""
    state.symbols += [symbol for symbol in sorted(symbols) if symbol not in state.symbols]
    state.last_ms = close_ms


def _close_minute(symbols: list[str], label: int, bars: Mapping[str, RawBar]) -> list[BarItem]:
    alone = label % LONGER_MS != 0
    sealed = Phase(label, False, len(symbols), label, alone=alone)
    stamped, items = _stamped(label), []
    for uid, symbol in enumerate(symbols):
        bar = Bar(uid, symbol, label, 0, _filled(stamped.copy(), bars.get(symbol)))
        items.append(BarItem(sealed, uid, bar))
    if not alone:
        final = Phase(label, True, len(symbols), label)
        items += [BarItem(final, uid, None) for uid in range(len(symbols))]
    return items


def bar_columns(raw: RawBar | None, label: int) -> Columns:
    """Return the raw columns of an imported bar; None is a minute the file does not have.

    A column that the file cannot fill is left out, as for a feed that is not subscribed.
    """
    return _filled(_stamped(label), raw)


def _stamped(label: int) -> Columns:
    return {
        "ingest_ts": iso(label),
        "ingest_lag_ms": 0,
        "book_staleness_ms": None,
        "clock_skew_ms": None,
        "dropped_ticks": 0,
        "duplicate_ticks": 0,
        "source": SOURCE,
    }


def _filled(columns: Columns, raw: RawBar | None) -> Columns:
    if raw is None:
        columns |= dict.fromkeys(("open", "high", "low", "close", "mid_close", "v_total_m_1"))
        columns["dq_status"], columns["dq_reasons"] = grade(["gap"])
        return columns
    traded = fill_bar(columns, raw)
    reasons = ["price_sanity"] if prices_at_odds(columns) else []
    if not traded:
        reasons.append("quiet")
    columns["dq_status"], columns["dq_reasons"] = grade(reasons) if reasons else (DQ_OK, [])
    return columns


native.take_over("bars", globals())  # plain form only
