"""Events as a table: one line each, readable at 100 columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from dataflows.cli.screen import new_table

NAMES_FROM_WIDTH = 140  # narrower, folded detectors are only counted
_SEVERE, _STRONG = 80, 60
_USUAL_TF = "1m"
_Z_SHOWN = 2
_RETURN = "ret_m_1"
_Z = {
    "z_ret_abs_m_1": "z_ret",
    "z_vol_m_1": "z_vol",
    "z_oi_roc_m_5": "z_oi",
    "z_spread_m_1": "z_spread",
    "z_basis_m_5": "z_basis",
}


def events_table(events: Iterable[Mapping[str, Any]], width: int) -> Table:
    """Return events in the order given; names of folded detectors only where there is room."""
    named = width >= NAMES_FROM_WIDTH
    table = new_table(
        *("time (UTC)", "symbol", "event", "sev", "main numbers", "also"),
        right=("sev",),
        fold=("event", "main numbers", "also"),
    )
    for event in events:
        folded = event.get("coalesced") or []
        table.add_row(
            Text(shown_time(str(event["exchange_ts"])), "dim"),
            Text(str(event["symbol"]), "bold"),
            Text.assemble((name_of(event), "cyan"), (_timeframe(event), "dim")),
            severity_text(int(event["severity"])),
            main_numbers(event),
            Text(", ".join(folded) if named else f"+{len(folded)}" if folded else "", "dim"),
        )
    return table


def name_of(event: Mapping[str, Any]) -> str:
    """Return the detector's id.

    >>> name_of({"class": "spike", "subtype": "vol_spike_m_1"})
    'spike.vol_spike_m_1'
    """
    return f"{event['class']}.{event['subtype']}"


def shown_time(iso_text: str) -> str:
    """Return an ISO instant without year and seconds.

    >>> shown_time("2026-09-22T00:51:00Z")
    '09-22 00:51'
    """
    return iso_text[5:16].replace("T", " ")


def main_numbers(event: Mapping[str, Any]) -> str:
    """Return the minute's return and the z-scores furthest from 0; for the market its shocks.

    >>> main_numbers({"local_state": {"features": {"ret_m_1": -0.0058, "z_vol_m_1": 5.51}}})
    'ret -0.58% z_vol 5.5'
    """
    features = _members(_members(event, "local_state"), "features")
    shown = []
    if _is_number(features.get(_RETURN)):
        shown.append(f"ret {features[_RETURN]:+.2%}")
    scores = [(name, features[key]) for key, name in _Z.items() if _is_number(features.get(key))]
    scores.sort(key=lambda score: -abs(score[1]))
    shown += [f"{name} {_short(value)}" for name, value in scores[:_Z_SHOWN]]
    frame = _members(event, "market_frame")
    if not shown and frame.get("leader") is not None:
        shown.append(f"shocks {frame.get('shock_count_5s')} leader {frame['leader']}")
    return " ".join(shown)


def _members(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return an object inside an object, an empty one if it is something else."""
    inner = value.get(name)
    return inner if isinstance(inner, Mapping) else {}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _short(value: float) -> str:
    return f"{value:.1f}" if abs(value) < 10 else f"{value:.0f}"


def _timeframe(event: Mapping[str, Any]) -> str:
    tf = event.get("tf", _USUAL_TF)
    return "" if tf == _USUAL_TF else f" ({tf})"


def severity_text(severity: int) -> Text:
    """Return a severity in its colour."""
    style = "bold red" if severity >= _SEVERE else "bold yellow" if severity >= _STRONG else ""
    return Text(str(severity), style)
