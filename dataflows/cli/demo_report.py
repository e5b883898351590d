"""What a demo came to: events against the script of its scenario, and the verdicts on its rows.

Rules of this file: an episode that is meant to set off a detector of the pack must show an event of
one of its detectors, on one of its assets, in its minutes, and likewise on the market, unless the
market's frames could not know yet what the detector reads (a 15m baseline is warm after 50 hours);
an episode that is meant to be held back (outage, empty book) must show no row that is called good,
and no event. Everything is read from the files, as anybody else would read them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import orjson
from rich.table import Table
from rich.text import Text

from dataflows.cli.screen import new_table, shown_counts, status
from dataflows.cli.tables import name_of, shown_time
from dataflows.replay import product_path
from fixtures.market import EpisodeTruth
from operators.lattice import iso
from operators.records import MARKET_SYMBOL
from operators.verdicts import DQ_OK
from packs.loader import Detector, Packs

Result = Literal["found", "held back", "not in the pack", "not warm yet", "MISSING"]
# class and subtype, which name a detector in an event
Named = tuple[str, str]


class _RowLine(msgspec.Struct):
    symbol: str
    tf: str
    exchange_ts: str
    dq_status: str | None = None


class _SuppressedLine(msgspec.Struct):
    symbol: str
    exchange_ts: str
    detector_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class EpisodeReport:
    """An episode of the script and what became of it."""

    kind: str
    coins: tuple[str, ...]
    first: str
    last: str
    result: Result
    detail: str


@dataclass
class DemoReport:
    """What the files of a demo say. verdicts : of the one-minute rows."""

    events: list[dict[str, Any]] = field(default_factory=list)
    verdicts: dict[str, int] = field(default_factory=dict)
    suppressed: dict[str, int] = field(default_factory=dict)
    episodes: list[EpisodeReport] = field(default_factory=list)

    @property
    def missing(self) -> list[str]:
        """Return the episodes that did not come to what they are meant to."""
        return [f"{e.kind} at {e.first}" for e in self.episodes if e.result == "MISSING"]


def report_of(directory: Path, truths: Iterable[EpisodeTruth], packs: Packs) -> DemoReport:
    """Read the products of a demo and judge every episode."""
    report = DemoReport()
    report.events = [orjson.loads(line) for line in _lines(directory, "events")]
    rows = [row for row in _rows(directory) if row.tf == "1m"]
    suppressed = [_suppressed(line) for line in _lines(directory, "suppressed")]
    report.verdicts = dict(Counter(row.dq_status or "none" for row in rows))
    report.suppressed = dict(Counter(each.reason for each in suppressed))
    known = {d.detector_id: d for d in packs.detectors if d.enabled and d.mode == "live"}
    frames = [orjson.loads(line) for line in _lines(directory, "frames")]
    for truth in truths:
        ids = (*truth.detectors, *truth.market)
        judged: tuple[Result, str]
        if not ids:
            judged = _judge_quiet(truth, rows, report.events)
        elif known.keys().isdisjoint(ids):
            judged = "not in the pack", ", ".join(sorted(ids))
        elif not truth.detectors and not _is_warm(truth, known, frames):
            judged = "not warm yet", f"{', '.join(sorted(ids))} needs columns that are still NULL"
        else:
            judged = _judge_loud(truth, known, report.events, suppressed)
        report.episodes.append(_episode(truth, *judged))
    return report


def episodes_table(episodes: Iterable[EpisodeReport]) -> Table:
    """Return the script with what became of it."""
    table = new_table("episode", "on", "minutes (UTC)", "result", "what", fold=("what",))
    for each in episodes:
        on = each.coins[0] if len(each.coins) == 1 else f"{len(each.coins)} assets"
        minutes = f"{shown_time(each.first)} - {shown_time(each.last)[-5:]}"
        what = Text(each.detail, "dim")
        table.add_row(each.kind, Text(on, "bold"), minutes, status(each.result), what)
    return table


def _episode(truth: EpisodeTruth, result: Result, detail: str) -> EpisodeReport:
    return EpisodeReport(
        kind=truth.kind,
        coins=truth.touched,
        first=iso(truth.labels[0]),
        last=iso(truth.labels[-1]),
        result=result,
        detail=detail,
    )


def _is_warm(
    truth: EpisodeTruth, known: Mapping[str, Detector], frames: Iterable[Mapping[str, Any]]
) -> bool:
    """Tell whether some frame of an episode has all that a market-wide detector of it reads."""
    meant = [known[detector_id] for detector_id in truth.market if detector_id in known]
    within = [f for f in frames if iso(truth.labels[0]) <= f["exchange_ts"] <= iso(truth.until_ms)]
    return any(
        frame["tf"] in detector.tfs and all(frame.get(name) is not None for name in needed)
        for detector in meant
        for needed in (detector.required,)
        for frame in within
    )


def _judge_loud(
    truth: EpisodeTruth,
    known: Mapping[str, Detector],
    events: Iterable[Mapping[str, Any]],
    suppressed: Iterable[_SuppressedLine],
) -> tuple[Result, str]:
    """Look for an event that is meant, by itself or folded into another.

    What is meant for assets must show on one of them, what is meant for the market on the market.
    """
    meant = ((truth.coins, truth.detectors), ((MARKET_SYMBOL,), truth.market))
    groups = [(symbols, [known[i] for i in ids if i in known]) for symbols, ids in meant]
    hits: list[Mapping[str, Any]] = []
    missing: list[str] = []
    for symbols, wanted in groups:
        if not wanted:
            continue
        found = [e for e in events if _within(truth, symbols, e["symbol"], e["exchange_ts"])]
        names = {(detector.event_class, detector.subtype) for detector in wanted}
        found = [event for event in found if not names.isdisjoint(_named(event))]
        hits += found
        if not found:
            ids = {detector.detector_id for detector in wanted}
            missing.append(_why_missing(truth, symbols, ids, suppressed))
    if missing:
        return "MISSING", "; ".join(missing)
    return "found", _shown_hits(hits)


def _within(truth: EpisodeTruth, symbols: Container[str], symbol: str, exchange_ts: str) -> bool:
    return symbol in symbols and iso(truth.labels[0]) <= exchange_ts <= iso(truth.until_ms)


def _why_missing(
    truth: EpisodeTruth,
    symbols: Container[str],
    wanted: set[str],
    suppressed: Iterable[_SuppressedLine],
) -> str:
    reasons = Counter(
        each.reason
        for each in suppressed
        if each.detector_id in wanted and _within(truth, symbols, each.symbol, each.exchange_ts)
    )
    why = f"suppressed: {shown_counts(reasons)}" if reasons else "no candidate"
    return f"none of {', '.join(sorted(wanted))} ({why})"


def _named(event: Mapping[str, Any]) -> Iterator[Named]:
    """Yield the names of an event's detector and of those folded into it, which share its class."""
    for subtype in (event["subtype"], *(event.get("coalesced") or ())):
        yield event["class"], subtype


def _shown_hits(hits: list[Mapping[str, Any]]) -> str:
    """Return the strongest event, and how many more there are."""
    strongest = max(hits, key=lambda event: event["severity"])
    several = len({event["symbol"] for event in hits}) > 1
    symbol = f"{strongest['symbol']} " if several else ""
    more = f" +{len(hits) - 1}" if len(hits) > 1 else ""
    return f"{symbol}{name_of(strongest)} {strongest['severity']}{more}"


def _judge_quiet(
    truth: EpisodeTruth, rows: Iterable[_RowLine], events: Iterable[Mapping[str, Any]]
) -> tuple[Result, str]:
    """Look for rows that should not be called good, and for events that should not be."""
    labels = {iso(label) for label in truth.labels}
    newest = {
        (row.symbol, row.exchange_ts): row.dq_status or "none"
        for row in rows
        if row.exchange_ts in labels and row.symbol in truth.touched
    }
    verdicts = Counter(newest.values())
    loud = [e for e in events if e["exchange_ts"] in labels and e["symbol"] in truth.touched]
    shown = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    detail = f"{len(newest)} rows: {shown}; {len(loud)} events"
    good = newest and not verdicts[DQ_OK] and not loud
    return "held back" if good else "MISSING", detail


# --- files -------------------------------------------------------------------------------------


_row = msgspec.json.Decoder(_RowLine).decode
_suppressed = msgspec.json.Decoder(_SuppressedLine).decode


def _rows(directory: Path) -> Iterator[_RowLine]:
    return map(_row, _lines(directory, "rows"))


def _lines(directory: Path, product: str) -> Iterator[bytes]:
    with product_path(directory, product).open("rb") as stream:
        yield from stream
