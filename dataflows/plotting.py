"""An event drawn over its asset: price, volume against its usual, and what was said.

Rules of this file: it draws what is stored and smooths nothing; a minute without a value is a hole
in the line; it needs matplotlib, which only those who draw have to install.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, DateFormatter
from matplotlib.figure import Figure

from dataflows.archive import Archive, Span, StoredEvent, label_of
from operators.naming import Naming
from operators.records import MARKET_UID, Row
from packs.schema import FeaturePack

SIZE_IN = (10.0, 7.0)
DPI = 110
DAY_MS = 86_400_000
_LIVE, _HELD, _THIS, _LINE = "#1f77b4", "#9a9a9a", "#d62728", "#222222"


def draw_event(
    archive: Archive, stored: StoredEvent, span: Span, features: FeaturePack, path: Path
) -> None:
    """Write a PNG: close, z of volume, and the severities of events and suppressions in a span.

    The event is marked. The market has no price and no volume: its panels show the shocked assets
    and the leader's z of volume from the frames.
    """
    payload = stored.payload
    uid, tf = payload["asset_uid"], payload["tf"]
    figure = Figure(figsize=SIZE_IN, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    price, volume, severity = figure.subplots(3, 1, sharex=True, height_ratios=[3, 2, 2])
    if uid == MARKET_UID:
        _frames(archive, tf, span, price, volume)
    else:
        naming, rows = Naming(features), archive.rows(uid, tf, span)
        _series(price, rows, naming, "close", "close")
        _series(volume, rows, naming, "z_vol_m_1", "z of volume")
        volume.axhline(0.0, color=_HELD, linewidth=0.5)
    _severities(severity, archive, payload, span)
    at = _time(label_of(payload["exchange_ts"]))
    for axes in (price, volume, severity):
        axes.axvline(at, color=_THIS, linewidth=1.0, alpha=0.7)
        axes.grid(alpha=0.25)
    severity.set_xlim(_time(span.since_ms), _time(span.until_ms))
    severity.xaxis.set_major_locator(AutoDateLocator(tz="UTC"))  # type: ignore[no-untyped-call]
    severity.xaxis.set_major_formatter(
        DateFormatter("%m-%d %H:%M", tz="UTC")  # type: ignore[no-untyped-call]
    )
    name = f"{payload['class']}.{payload['subtype']}"
    what = f"{payload['symbol']}  {name}  severity {payload['severity']}"
    figure.suptitle(f"{what}  {tf} {payload['exchange_ts']}")
    figure.savefig(path, metadata={"Software": None})


def _series(axes: Axes, rows: list[Row], naming: Naming, name: str, label: str) -> None:
    times = [_time(row.exchange_ts_ms) for row in rows]
    values = [_or_hole(naming.read(row, name)) for row in rows]
    axes.plot(times, values, color=_LINE, linewidth=1.2)
    axes.set_ylabel(label)


def _frames(archive: Archive, tf: str, span: Span, above: Axes, below: Axes) -> None:
    step_ms = {"1m": 60_000, "15m": 900_000, "1h": 3_600_000}[tf]
    first = span.since_ms // step_ms * step_ms + step_ms
    labels = range(first, span.until_ms + 1, step_ms)
    frames = [frame for label in labels if (frame := archive.frame(tf, label)) is not None]
    times = [_time(frame.exchange_ts_ms) for frame in frames]
    for axes, name, label in (
        (above, "shock_count_5s", "shocked assets"),
        (below, "leader_z_vol", "leader's z of volume"),
    ):
        values = [_or_hole(frame.columns.get(name)) for frame in frames]
        axes.plot(times, values, color=_LINE, linewidth=1.2)
        axes.set_ylabel(label)


def _severities(axes: Axes, archive: Archive, payload: dict[str, Any], span: Span) -> None:
    uid, tf = payload["asset_uid"], payload["tf"]
    held = [s for s in archive.suppressed(uid, tf, span) if s.severity is not None]
    told = [event.payload for event in archive.events(uid, tf, span)]
    others = [p for p in told if p["event_id"] != payload["event_id"]]
    axes.scatter(
        [_time(s.exchange_ts_ms) for s in held],
        [float(s.severity or 0) for s in held],
        marker="x",
        color=_HELD,
        label="suppressed",
    )
    _stems(axes, others, _LIVE, "events")
    _stems(axes, [payload], _THIS, "this event")
    axes.set_ylim(0.0, 105.0)
    axes.set_ylabel("severity")
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, frameon=False)


def _stems(axes: Axes, events: list[dict[str, Any]], color: str, label: str) -> None:
    times = [_time(label_of(p["exchange_ts"])) for p in events]
    values = [float(p["severity"]) for p in events]
    axes.vlines(times, 0.0, values, color=color, linewidth=1.5)
    axes.scatter(times, values, color=color, s=18, label=label)


def _or_hole(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _time(time_ms: int) -> float:
    """Return a time as matplotlib counts it: days."""
    return time_ms / DAY_MS
