"""Which events of a minute have one cause, so that a consumer can alert once.

Rules of this file: a market-wide shock claims the spikes of its minute; otherwise so many symbols
of one class that move the same way are one incident; the cause that comes again soon goes on under
the id it began with; ids say minute and cause, so that replays have the same.  Not in the build
plan: it has synchrony (9.6) and coalescing per symbol (10.5), and pages would still come by symbol.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from operators.lattice import MINUTE_MS, iso
from operators.records import MARKET_UID, Draft
from packs.schema import Incidents

BASKET = "synchrony"  # the market-wide class, and the cause it gives
CLAIMED = "spike"  # by a basket shock
WORDS = {1: "up", -1: "down"}


class Incident(msgspec.Struct, array_like=True):
    """A cause that has been seen: under which id, and when last."""

    incident_id: str
    last_ms: int


class IncidentState(msgspec.Struct):
    """Incidents by cause. Bound: the classes twice, and the basket shock."""

    known: dict[str, Incident] = {}


def incidents_of(
    state: IncidentState, drafts: Sequence[Draft], label_ms: int, rule: Incidents
) -> list[str | None]:
    """Return the incident of each published event of a minute, None for one that stands alone.

    The amendments of a minute come in a call of their own and join the minute's incidents.
    """
    causes = _causes(state, drafts, label_ms, rule)
    found: list[str | None] = []
    for draft in drafts:
        cause = next((c for c in _possible(draft) if c in causes), None)
        found.append(None if cause is None else _id_of(state, cause, label_ms, rule))
    return found


def _possible(draft: Draft) -> tuple[str, ...]:
    """Return the causes that an event may belong to, the first that holds counts."""
    own = f"{draft.event_class}:{WORDS[draft.direction]}" if draft.direction else None
    basket = draft.event_class in (BASKET, CLAIMED)
    return tuple(cause for cause in (BASKET if basket else None, own) if cause is not None)


def _causes(
    state: IncidentState, drafts: Sequence[Draft], label_ms: int, rule: Incidents
) -> frozenset[str]:
    """Return the causes that hold in a minute: those of these events and of its earlier phase."""
    assets: dict[str, list[int]] = {}
    for draft in drafts:
        for cause in _possible(draft):
            uids = assets.setdefault(cause, [])
            if draft.asset_uid not in uids:
                uids.append(draft.asset_uid)
    now = [c for c, known in state.known.items() if known.last_ms == label_ms]
    for cause, uids in assets.items():
        if MARKET_UID in uids if cause == BASKET else len(uids) >= rule.symbols_min:
            now.append(cause)
    return frozenset(now)


def _id_of(state: IncidentState, cause: str, label_ms: int, rule: Incidents) -> str:
    known = state.known.get(cause)
    if known is None or label_ms - known.last_ms > rule.gap_min * MINUTE_MS:
        known = state.known[cause] = Incident(f"{iso(label_ms)}:{cause}", label_ms)
    known.last_ms = label_ms
    return known.incident_id
