"""Log lines in, per-asset micro-batches and minute boundaries out.

Rules of this file: the arrival stamp of the line being read is the only clock, and it never runs
backwards; a minute T seals when the clock passes T + lateness and is final when it passes
T + grace; every asset of the roster gets both boundaries, in asset order, after the last of its
data; what is emitted depends on the lines alone, never on how they were cut into chunks.
Design 2, 3.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from operators import native, wire
from operators.lattice import MINUTE_MS, minute_of
from operators.layout import pack_book, pack_context, pack_quote, pack_trade
from operators.records import Asset, Boundary, Feed, Phase, Ticks

BAD_LINE = "bad_line"
CLOCK_BACKWARDS = "clock_backwards"
CLOCK_JUMP = "clock_jump"
UNKNOWN_COIN = "unknown_coin"
BAD_ENTRY = "bad_entry"
VENUE_ERROR = "venue_error"

# Stamps are kept in 64 bits (operators/layout.py), which end in the year 2262.
STAMP_NS_END = 1 << 63
# A silent jump of the clock beyond this is believed only when the next line confirms it: one
# damaged stamp must not open a thousand empty days.
JUMP_DOUBTED_MS = 7 * 86_400_000
CONFIRM_WITHIN_MS = 60_000
# Assets of a log without a roster get ids outside the venue's ranges, in order of appearance.
IMPLICIT_UID_BASE = 2_000_000_000
IMPLICIT_ASSETS_MAX = 10_000
# The clock's skew is judged by the third-smallest delay, so that two damaged times mean nothing.
DELAYS_KEPT = 3
# Read by operators/frames.pyx, where that is compiled.
_FRAMES = native.compiled("frames")
FAST_CHANNELS = ("bbo", "trades", "l2Book", "activeAssetCtx")
_PACK: dict[str, Callable[[Any], bytes]] = {
    "trades": pack_trade,
    "quotes": pack_quote,
    "books": pack_book,
    "contexts": pack_context,
}
GAP_START = "start"
GAP_SILENCE = "silence"

Item = tuple[int, Ticks | Boundary]


class Hole(msgspec.Struct):
    """A stretch without data; still open while `end_ms` is None."""

    start_ms: int
    end_ms: int | None
    cause: str


class FeedState(msgspec.Struct):
    """What the reader of a log knows besides its position; all of it survives a restart."""

    version: int = 1
    clock_ns: int = 0
    next_seal_ms: int = 0
    next_final_ms: int = 0
    roster: list[Asset] = []
    rosters_ahead: list[tuple[int, list[Asset]]] = []
    dexes: tuple[str, ...] = ("",)
    has_roster: bool = False
    holes: list[Hole] = []
    last_frame_ms: int | None = None
    frame_before_ms: int | None = None
    delays_ms: dict[int, list[int]] = {}
    doubted_ns: int | None = None
    counts: dict[str, int] = {}
    last_phase: int = 0

    def count(self, reason: str, n: int = 1) -> None:
        """Add to a counter."""
        self.counts[reason] = self.counts.get(reason, 0) + n


class FeedReader:
    """Turns lines into items; `state` is everything it remembers."""

    def __init__(
        self,
        state: FeedState,
        *,
        lateness_ms: int,
        grace_ms: int,
        arrival_jump_gap_ms: int,
    ) -> None:
        assert 0 <= lateness_ms <= grace_ms < MINUTE_MS, (lateness_ms, grace_ms)
        self.state = state
        self._lateness_ms = lateness_ms
        self._grace_ms = grace_ms
        self._jump_ms = arrival_jump_gap_ms
        self._pending: dict[int, Ticks] = {}
        self._told_holes: list[Hole] = []
        self._closing_ns = 0  # no minute closes before the clock reaches this
        self._fast = None
        if _FRAMES is not None:
            self._fast = _FRAMES.Lines(arrival_jump_gap_ms * 1_000_000, Ticks, DELAYS_KEPT)
        self._routes: dict[type, Callable[[Any, int], None]] = {
            wire.WireBbo: self._on_quote,
            wire.WireTrades: self._on_trades,
            wire.WireBook: self._on_book,
            wire.WireAssetCtx: self._on_context,
            wire.WireAllCtxs: self._on_all_contexts,
            wire.RestContext: self._on_rest_context,
            wire.Roster: self._on_roster,
            wire.Gap: self._on_gap,
            wire.WireError: self._on_error,
        }
        self._index_roster()

    def read(self, lines: Iterable[bytes]) -> list[Item]:
        """Return the items of some more lines: ticks by asset, and the boundaries between them."""
        whole = [line.replace(b"\n", b" ") for line in lines]
        return self.read_block(b"".join([line + b"\n" for line in whole]))

    def read_block(self, block: bytes) -> list[Item]:
        """Return the items of some more lines, each with its newline."""
        items: list[Item] = []
        at, end = 0, len(block)
        while at < end:
            if self._fast is not None:
                at = self._fast.read(block, at, self.state, self._pending, self._closing_ns)
            if at < end:
                newline = block.index(b"\n", at)
                self._line(block[at:newline], items)
                at = newline + 1
        self._flush(items)
        return items

    def pass_over(self, line: bytes) -> None:
        """Take the roster, or a gap, from a line before the one with which reading begins.

        The clock stays where it is, nothing is counted, and every other line means nothing.
        """
        try:
            message, _ = wire.decode(line.partition(b" ")[2])
        except wire.Reject:
            return
        if isinstance(message, wire.Roster | wire.Gap):
            self._route(message)
            self._told_holes = []
            self.state.counts = {}

    def take_holes(self) -> list[Hole]:
        """Return the holes that began or ended since this was last asked, as they are now."""
        distinct = {id(hole): hole for hole in self._told_holes}
        self._told_holes = []
        return [Hole(hole.start_ms, hole.end_ms, hole.cause) for hole in distinct.values()]

    def _add_hole(self, hole: Hole) -> None:
        self.state.holes.append(hole)
        self._told_holes.append(hole)

    # --- a line ------------------------------------------------------------------------------

    def _line(self, line: bytes, items: list[Item]) -> None:
        state = self.state
        stamp, _, frame = line.partition(b" ")
        stamp_ns = int(stamp) if stamp.isdigit() and len(stamp) <= 19 and frame else STAMP_NS_END
        if stamp_ns >= STAMP_NS_END:
            state.count(BAD_LINE)
            return
        if not self._advance(stamp_ns, items):
            return
        try:
            message, bad_entries = wire.decode(frame)
        except wire.Reject as reject:
            state.count(reject.reason)
            return
        if bad_entries:
            state.count(BAD_ENTRY, bad_entries)
        self._route(message)

    def _advance(self, stamp_ns: int, items: list[Item]) -> bool:
        """Move the clock and close what has passed; False when the stamp is not believed yet."""
        state = self.state
        if state.clock_ns == 0:
            self._start(stamp_ns)
            return True
        small_step = 0 <= stamp_ns - state.clock_ns <= self._jump_ms * 1_000_000
        if small_step and stamp_ns < self._closing_ns:  # nearly every line
            state.clock_ns, state.doubted_ns = stamp_ns, None
            return True
        if stamp_ns < state.clock_ns:
            state.count(CLOCK_BACKWARDS)
            state.doubted_ns = None
            return True
        before_ms = state.clock_ns // 1_000_000
        now_ms = stamp_ns // 1_000_000
        if now_ms - before_ms > JUMP_DOUBTED_MS:
            if not self._confirms(stamp_ns):
                state.count(CLOCK_JUMP)
                state.doubted_ns = stamp_ns
                return False
            self._skip_to(now_ms)
        state.doubted_ns = None
        if now_ms - before_ms > self._jump_ms:
            self._add_hole(Hole(before_ms, now_ms, GAP_SILENCE))
        state.clock_ns = stamp_ns
        closing_ms, minute_ms, final = self._next_closing()
        while closing_ms <= now_ms:
            self._close(minute_ms, final, now_ms, items)
            closing_ms, minute_ms, final = self._next_closing()
        self._closing_ns = closing_ms * 1_000_000
        return True

    def _confirms(self, stamp_ns: int) -> bool:
        doubted = self.state.doubted_ns
        return doubted is not None and 0 <= stamp_ns - doubted <= CONFIRM_WITHIN_MS * 1_000_000

    def _start(self, stamp_ns: int) -> None:
        """The first line opens the lattice; the part of its minute before it is a gap."""
        state = self.state
        now_ms = stamp_ns // 1_000_000
        state.clock_ns = stamp_ns
        state.next_seal_ms = state.next_final_ms = minute_of(now_ms)
        self._add_hole(Hole(0, now_ms, GAP_START))

    def _skip_to(self, now_ms: int) -> None:
        """Re-anchor the lattice after a confirmed jump of days: those minutes get no rows."""
        state = self.state
        first = minute_of(now_ms)
        state.count("minutes_skipped", (first - state.next_seal_ms) // MINUTE_MS)
        state.next_seal_ms = state.next_final_ms = first
        state.delays_ms.clear()

    # --- boundaries --------------------------------------------------------------------------

    def _next_closing(self) -> tuple[int, int, bool]:
        """Return (when, minute, final) of the next closing, in ms of the arrival clock."""
        state = self.state
        seal_at = state.next_seal_ms + self._lateness_ms
        final_at = state.next_final_ms + self._grace_ms
        if state.next_final_ms < state.next_seal_ms and final_at <= seal_at:
            return final_at, state.next_final_ms, True
        return seal_at, state.next_seal_ms, False

    def _close(self, minute_ms: int, final: bool, now_ms: int, items: list[Item]) -> None:
        state = self.state
        self._flush(items)
        if final:
            state.next_final_ms += MINUTE_MS
        else:
            state.next_seal_ms += MINUTE_MS
            self._adopt_roster(minute_ms)
        holes = self._holes_in(minute_ms)
        start_ms = minute_ms - MINUTE_MS
        feed = Feed(
            gap=holes[0].cause if holes else None,
            outage=any(
                hole.start_ms <= start_ms and (hole.end_ms is None or hole.end_ms >= minute_ms)
                for hole in holes
            ),
            resync=any(hole.end_ms is not None and hole.end_ms <= minute_ms for hole in holes),
            last_frame_ms=self._last_frame_before(minute_ms),
            clock_skew_ms=max(state.delays_ms.get(minute_ms, ()), default=None),
        )
        phase = Phase(minute_ms, final, len(state.roster), now_ms, state.last_phase)
        if state.roster:  # nobody is told of a closing without assets
            state.last_phase = phase.number
        items += [(asset.asset_uid, Boundary(phase, asset, feed)) for asset in state.roster]
        if final:
            self._forget(minute_ms)

    def _hear(self, now_ms: int) -> None:
        """Remember the newest venue frame, and the newest before its minute."""
        state = self.state
        if (
            state.last_frame_ms is not None
            and now_ms // MINUTE_MS > state.last_frame_ms // MINUTE_MS
        ):
            state.frame_before_ms = state.last_frame_ms
        state.last_frame_ms = now_ms

    def _last_frame_before(self, minute_ms: int) -> int | None:
        """Return the newest frame that came before a minute's close; no minute closes later than
        one minute after it."""
        state = self.state
        if state.last_frame_ms is not None and state.last_frame_ms >= minute_ms:
            return state.frame_before_ms
        return state.last_frame_ms

    def _holes_in(self, minute_ms: int) -> list[Hole]:
        """Return the holes that overlap the minute."""
        start = minute_ms - MINUTE_MS
        return [
            hole
            for hole in self.state.holes
            if hole.start_ms < minute_ms and (hole.end_ms is None or hole.end_ms > start)
        ]

    def _forget(self, minute_ms: int) -> None:
        state = self.state
        state.holes = [h for h in state.holes if h.end_ms is None or h.end_ms > minute_ms]
        for label in [label for label in state.delays_ms if label <= minute_ms]:
            del state.delays_ms[label]

    def _flush(self, items: list[Item]) -> None:
        items += sorted(self._pending.items())
        self._pending = {}

    # --- roster ------------------------------------------------------------------------------

    def _adopt_roster(self, minute_ms: int) -> None:
        """Make the newest roster that holds for this minute the current one."""
        state = self.state
        due = [roster for from_ms, roster in state.rosters_ahead if from_ms <= minute_ms]
        if due:
            state.rosters_ahead = [r for r in state.rosters_ahead if r[0] > minute_ms]
            state.roster = due[-1]
            self._index_roster()

    def _index_roster(self) -> None:
        """Route by every roster known: frames of a coming asset arrive before its first minute."""
        known = [*self.state.roster, *(a for _, r in self.state.rosters_ahead for a in r)]
        self._uid_of = {asset.symbol: asset.asset_uid for asset in known}
        self._uids = set(self._uid_of.values())
        if self._fast is not None:
            self._fast.forget()
            for asset in known:
                listed = FAST_CHANNELS if self.state.has_roster else asset.channels
                for channel in listed:
                    self._fast.learn(channel, asset.symbol, self._uid_of[asset.symbol])

    def _on_roster(self, message: wire.Roster, now_ns: int) -> None:
        state, roster = self.state, message.data
        assets = [
            Asset(entry.uid, entry.coin, entry.channels)
            for entry in sorted(roster.assets, key=lambda entry: entry.uid)
        ]
        if len({a.asset_uid for a in assets}) < len(assets):
            state.count(wire.WRONG_SHAPE)
            return
        if not state.has_roster:
            state.roster = []
        state.has_roster = True
        state.dexes = roster.dexes
        state.rosters_ahead.append((roster.from_ms, assets))
        self._index_roster()

    def _uid(self, coin: str, channel: str) -> int | None:
        """Return a coin's id; a log that never had a roster gets one from what it contains."""
        uid = self._uid_of.get(coin)
        if self.state.has_roster:
            if uid is None:
                self.state.count(UNKNOWN_COIN)
            return uid
        roster = self.state.roster
        if uid is None:
            if len(roster) >= IMPLICIT_ASSETS_MAX:
                self.state.count(UNKNOWN_COIN)
                return None
            uid = IMPLICIT_UID_BASE + len(roster)
            roster.append(Asset(uid, coin, (channel,)))
            self._uid_of[coin] = uid
            self._uids.add(uid)
        elif channel not in (asset := roster[uid - IMPLICIT_UID_BASE]).channels:
            seen = tuple(sorted((*asset.channels, channel)))
            roster[uid - IMPLICIT_UID_BASE] = Asset(uid, coin, seen)
        else:
            return uid
        if self._fast is not None:
            self._fast.learn(channel, coin, uid)
        return uid

    # --- frames ------------------------------------------------------------------------------

    def _route(self, message: wire.Frame) -> None:
        state = self.state
        if not isinstance(message, wire.CONTROL):
            self._hear(state.clock_ns // 1_000_000)
        handle = self._routes.get(type(message))
        if handle is not None:  # of the others (clock, pong, ack, candle, mids) the stamp is enough
            handle(message, state.clock_ns)

    def _on_quote(self, message: wire.WireBbo, now_ns: int) -> None:
        data = message.data
        if (uid := self._uid(data.coin, "bbo")) is not None:
            self._keep(uid, "quotes", wire.quote_of(data, now_ns))
            self._delay(data.time)

    def _on_book(self, message: wire.WireBook, now_ns: int) -> None:
        data = message.data
        if (uid := self._uid(data.coin, "l2Book")) is not None:
            self._keep(uid, "books", wire.book_of(data, now_ns))
            self._delay(data.time)

    def _on_trades(self, message: wire.WireTrades, now_ns: int) -> None:
        newest = 0
        for entry in message.data:
            if (uid := self._uid(entry.coin, "trades")) is not None:
                self._keep(uid, "trades", wire.trade_of(entry, now_ns))
                newest = max(newest, entry.time)
        self._delay(newest)

    def _on_context(self, message: wire.WireAssetCtx, now_ns: int) -> None:
        data = message.data
        if (uid := self._uid(data.coin, "activeAssetCtx")) is not None:
            self._keep(uid, "contexts", wire.context_of(data.ctx, now_ns))

    def _on_all_contexts(self, message: wire.WireAllCtxs, now_ns: int) -> None:
        for dex, contexts in message.data.ctxs:
            self._on_contexts(dex, contexts, now_ns)

    def _on_rest_context(self, message: wire.RestContext, now_ns: int) -> None:
        self._on_contexts(message.data.dex, message.data.answer[1], now_ns)

    def _on_error(self, message: wire.WireError, now_ns: int) -> None:
        self.state.count(VENUE_ERROR)

    def _on_contexts(self, dex: str, contexts: list[wire.WireCtx | None], now_ns: int) -> None:
        base = uid_base_of(self.state.dexes, dex)
        if base is None:
            return
        for index, context in enumerate(contexts):
            if context is not None and base + index in self._uids:
                self._keep(base + index, "contexts", wire.context_of(context, now_ns))

    def _keep(self, uid: int, kind: str, record: object) -> None:
        """Add a record to the asset's micro-batch; a text is the reason why there is none."""
        ticks = self._pending.get(uid)
        if ticks is None:
            ticks = self._pending[uid] = Ticks()
        if isinstance(record, str):
            ticks.rejects[record] = ticks.rejects.get(record, 0) + 1
            self.state.count(record)
        else:
            getattr(ticks, kind).extend(_PACK[kind](record))

    def _delay(self, time_ms: int) -> None:
        """Remember the smallest receive delays of the running minute, over all assets."""
        if not 0 < time_ms < wire.TIME_MS_MAX:
            return
        now_ms = self.state.clock_ns // 1_000_000
        smallest = self.state.delays_ms.setdefault(minute_of(now_ms), [])
        delay = now_ms - time_ms
        if len(smallest) < DELAYS_KEPT or delay < smallest[-1]:
            insort(smallest, delay)
            del smallest[DELAYS_KEPT:]

    def _on_gap(self, message: wire.Gap, now_ns: int) -> None:
        state, gap = self.state, message.data
        state.count(f"gap_{gap.cause}" if gap.end_ms is None else "gap_end")
        open_holes = [hole for hole in state.holes if hole.end_ms is None]
        for hole in open_holes:
            if hole.start_ms == gap.start_ms and hole.cause == gap.cause:
                hole.end_ms = gap.end_ms
                self._told_holes.append(hole)
                return
        if gap.cause == GAP_START:  # a recorder began: whatever its predecessor waited for is over
            for hole in open_holes:
                hole.end_ms = max(hole.start_ms, gap.start_ms)
                self._told_holes.append(hole)
        self._add_hole(Hole(gap.start_ms, gap.end_ms, gap.cause))


def uid_base_of(dexes: tuple[str, ...], dex: str) -> int | None:
    """Return the id of a dex's first asset: 0 for the main dex, 100000 + k * 10000 else (design 4).

    >>> uid_base_of(("", "xyz"), ""), uid_base_of(("", "xyz"), "xyz"), uid_base_of(("",), "abc")
    (0, 110000, None)
    """
    if dex == "":
        return 0
    return 100_000 + dexes.index(dex) * 10_000 if dex in dexes else None
