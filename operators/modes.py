"""Who hears an event: everybody, the shadow topic, or nobody.

Rules of this file: a detector has a lane on each asset, live or shadow, by its own mode; candidates
of one lane never hush, crowd out or heat up those of the other, so letting a detector run in shadow
changes nothing that is live. The run has a mode, too, and a kill switch: they are applied to what
would be published, at the very end, so that scores, cooldowns, budgets and ids are the same in
every mode, and shadow shows what production would have said.  Build plan 19.3, 20.3, operator's
guide 2; design 5, 6.
"""

from __future__ import annotations

import hashlib
from typing import Literal, get_args

import msgspec

from operators import ledger
from packs.loader import Detector
from packs.schema import Canary

RunMode = Literal["dry_run", "shadow", "canary", "prod", "replay"]
RUN_MODES: tuple[str, ...] = get_args(RunMode)

Lane = Literal["live", "shadow"]
LIVE: Lane = "live"
SHADOW: Lane = "shadow"


class Run(msgspec.Struct, frozen=True):
    """How a run publishes; no part of the configuration that events carry (design 4).

    mode : dry_run publishes nothing; shadow everything to the shadow topic; canary the pack's
    canary assets, the others to the shadow topic; prod all; replay as prod, to topics and tables
    of its own. emit_events : the kill switch; off, nothing is published in any mode, and rows,
    frames and suppressions go on (build plan 19.3).
    """

    mode: RunMode = "prod"
    emit_events: bool = True


def lane_of(detector: Detector, canary: Canary, asset_uid: int, symbol: str) -> Lane:
    """Return where a detector's events on an asset go: a canary speaks for canary assets only."""
    if detector.mode == "shadow":
        return SHADOW
    if detector.mode == "canary" and not is_canary(canary, asset_uid, symbol):
        return SHADOW
    return LIVE


def held_back(run: Run) -> str | None:
    """Return why a run publishes nothing at all, None if it does."""
    if not run.emit_events:
        return ledger.KILL_SWITCH
    return ledger.DRY_RUN if run.mode == "dry_run" else None


def outlet(run: Run, canary: Canary, asset_uid: int, symbol: str) -> Lane:
    """Return where an event of the live lane goes in a run that publishes."""
    if run.mode == "shadow":
        return SHADOW
    if run.mode == "canary" and not is_canary(canary, asset_uid, symbol):
        return SHADOW
    return LIVE


def is_canary(canary: Canary, asset_uid: int, symbol: str) -> bool:
    """Tell whether an asset is among the canaries: by name, or by a stable percentage of all, taken
    by a hash of the asset's id (plan 19.2)."""
    if symbol in canary.coins:
        return True
    digest = hashlib.sha256(str(asset_uid).encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100 < canary.percent
