"""Why a candidate is not published: the reasons of the ledger, one for each candidate.

Rules of this file: the first rule that forbids publication gives the reason, in this order; every
candidate of a minute is published, live or in shadow, or has exactly one.  Build plan 8.7, 10.5,
10.6, 11.3, 19.3.
"""

DQ = "dq"
WARMUP = "warmup"
ILLIQUID = "illiquid"
NOT_MEMBER = "not_member"
DISABLED = "disabled"
BELOW_THRESHOLD = "below_threshold"
COOLDOWN = "cooldown"
COALESCED = "coalesced"
BUDGET_SYMBOL = "budget_symbol"
CONTRACT = "contract"
BUDGET_GLOBAL = "budget_global"
DRY_RUN = "dry_run"
KILL_SWITCH = "kill_switch"

MEANINGS: dict[str, str] = {
    DQ: "the minute, or the market's frame, is not ok",
    WARMUP: "a baseline that some enabled detector of the timeframe reads has too few samples",
    ILLIQUID: "volume too small or spread too wide for the asset",
    NOT_MEMBER: "the asset is neither a member of the universe nor hot",
    DISABLED: "the detector is not enabled; its candidates are only counted",
    BELOW_THRESHOLD: "the severity is below the detector's threshold, or the trigger below that of"
    " the asset's liquidity tier",
    COOLDOWN: "the key has been heard lately and this is not clearly stronger, or the detector is"
    " muted in a new level (`state`)",
    COALESCED: "a stronger candidate of the same key and bar speaks for it",
    BUDGET_SYMBOL: "the symbol has used up the minute's budget of the class",
    CONTRACT: "the event would break the contract; it is a dead letter",
    BUDGET_GLOBAL: "all symbols together have used up the minute's budget",
    DRY_RUN: "it would have been published; the run is in mode dry_run",
    KILL_SWITCH: "it would have been published; the run publishes no events (`emit_events`)",
}
LEVEL_SHIFT = "level_shift"
CLOSED = "closed"
STATES: dict[str, str] = {
    LEVEL_SHIFT: "the detector has fired nearly every minute for long: muted from here on",
    CLOSED: "a muted detector has been silent for its cooldown: a note, no candidate",
}
