"""The page of the detectors: what each one looks for, and how it is scored.

Rules of this file: everything is read from the pack, so the page cannot say anything else.
"""

from __future__ import annotations

from itertools import groupby

from operators import ledger
from packs.loader import Detector, Packs
from packs.schema import EVENT_CLASSES, TIERS, TierName


def catalogue_page(packs: Packs) -> str:
    """Return the detectors of a pack as Markdown, class by class."""
    ordered = sorted(packs.detectors, key=lambda d: EVENT_CLASSES.index(d.event_class))
    lines = [
        "# Detectors",
        "",
        f"Made from detector pack {packs.detector_pack} by `alpha packs detectors --markdown`."
        " Columns are those of [columns.md](columns.md), on every timeframe by their names on"
        " 1m rows; those of the market frame are in `market_snapshot`.",
        "",
        "Severity is 100 / (1 + exp(-a (raw - b))) with raw = w1 primary + w2 max(0, secondary)"
        " + w3 breadth + novelty - penalties; z columns are clamped to the asset's own bounds"
        " before. Nothing is published on a minute that is not `ok`, during warm-up, in an"
        " illiquid minute, or for an asset that is neither a member of the universe nor hot;"
        " each candidate that is not published is in the ledger with its reason.",
        "",
    ]
    for event_class, group in groupby(ordered, key=lambda d: d.event_class):
        budget = packs.budgets.per_symbol_per_minute[event_class]
        lines += [f"## {event_class}", "", f"At most {budget} a minute for each symbol.", ""]
        for detector in group:
            lines += _section(detector, packs)
    lines += [*_notes(packs), "", *_ledger()]
    return "\n".join(lines).rstrip("\n") + "\n"


def _section(detector: Detector, packs: Packs) -> list[str]:
    lines = [f"### {detector.detector_id}", "", detector.description.strip(), ""]
    facts = [("trigger", f"`{_one_line(detector.trigger.text)}`")]
    facts += [
        (f"in tier `{tier}`", f"`{_one_line(detector.tier_triggers[tier].text)}`")
        for tier in TIERS
        if tier in detector.tier_triggers
    ]
    conditions = [*detector.conditions, *detector.guards]
    if conditions:
        facts.append(("and", ", ".join(f"`{_one_line(each.text)}`" for each in conditions)))
    facts += [
        ("primary", f"`{_one_line(detector.primary.text)}`"),
        ("secondary", f"`{_one_line(detector.secondary.text)}`" if detector.secondary else "none"),
        ("score", ", ".join(f"{n} {getattr(detector, n):g}" for n in ("w1", "w2", "w3", "a", "b"))),
        ("published", f"from severity {detector.publish_threshold:g}"),
        ("again", f"after {detector.cooldown_s:g} s, half-life {detector.half_life_s:g} s"),
        ("rows", f"{', '.join(detector.tfs)}; mode {_mode(detector)}"),
    ]
    if detector.inferred:
        facts.append(("inferred", "a proxy: its events say `inferred`"))
    return [*lines, *(f"- {name}: {fact}" for name, fact in facts), ""]


def _mode(detector: Detector) -> str:
    return detector.mode if detector.enabled else "disabled"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _notes(packs: Packs) -> list[str]:
    lines = ["## Budgets, tiers, incidents", ""]
    lines.append(f"- all symbols together: at most {packs.budgets.global_per_minute} a minute")
    for tier in TIERS:
        lines += [f"- tier `{tier}`: {words}" for words in _tier_words(tier, packs)]
    rule = packs.incidents
    lines.append(
        f"- events of {rule.symbols_min} symbols or more of one class that move the same way in one"
        f" minute share an `incident_id`, as do the spikes of a basket shock; the same cause within"
        f" {rule.gap_min} minutes goes on under it"
    )
    if packs.scoring.level_shift_bars:
        lines.append(
            f"- a detector that fires on nearly all of {packs.scoring.level_shift_bars} bars has"
            " met a new level: it is muted until it has been silent for its cooldown, and the"
            " ledger says when (`state` level_shift, then closed)"
        )
    return [*lines, *(f"- {note}" for note in packs.notes)]


def _ledger() -> list[str]:
    """Return the reasons of the ledger; the first that holds is the one that is written."""
    return [
        "## Why a candidate is not published",
        "",
        "Every candidate is an event or a line of the ledger (`suppressed.ndjson`, table"
        " `suppression`) with the first of these reasons:",
        "",
        *(f"- `{reason}`: {meaning}" for reason, meaning in ledger.MEANINGS.items()),
        "",
        "A line may also have a `state`:",
        "",
        *(f"- `{state}`: {meaning}" for state, meaning in ledger.STATES.items()),
    ]


def _tier_words(tier: TierName, packs: Packs) -> list[str]:
    own = packs.overrides.tiers.get(tier)
    budgets = own.budgets if own is not None else {}
    return [f"at most {budgets[name]} {name} a minute" for name in EVENT_CLASSES if name in budgets]
