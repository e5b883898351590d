"""Contract v0.1 as first released, as a consumer might have copied it.  Never edit this file.

What the model of today says must be readable with it, and what it wrote must be readable today.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct


def _field(text: str, unit: str = "") -> Meta:
    return Meta(description=text, extra_json_schema={"x-unit": unit} if unit else None)


Timeframe = Literal["1m", "15m", "1h"]
EventClass = Literal["spike", "shift", "quadrant", "divergence", "synchrony", "rotation"]
Verdict = Literal["ok", "partial", "stale"]

_DAY = r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9]"
_LABEL = rf"{_DAY}T{_CLOCK}:00Z"
_HEX = "[0-9a-f]"

Symbol = Annotated[str, Meta(min_length=1, max_length=64)]
Text = Annotated[str, Meta(min_length=1, max_length=128)]
Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,62}\Z")]
Subtype = Annotated[str, Meta(pattern=r"^[^\s.:/]{1,95}\Z")]
PackVersion = Annotated[str, Meta(pattern=r"^v[0-9]+\.[0-9]+(\.[0-9]+)?\Z", max_length=32)]
EventId = Annotated[
    str,
    Meta(
        pattern=rf"^{_HEX}{{8}}-{_HEX}{{4}}-7{_HEX}{{3}}-[89ab]{_HEX}{{3}}-{_HEX}{{12}}\Z",
        extra_json_schema={"format": "uuid"},
    ),
]
_MOMENT = {"format": "date-time"}
Time = Annotated[
    str,
    Meta(
        pattern=rf"^{_DAY}T{_CLOCK}:[0-5][0-9](\.[0-9]{{3}})?Z\Z",
        extra_json_schema=_MOMENT,
    ),
]
Label = Annotated[str, Meta(pattern=rf"^{_LABEL}\Z", extra_json_schema=_MOMENT)]
Count = Annotated[int, Meta(ge=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Symbols = Annotated[tuple[Symbol, ...], Meta(max_length=16)]


class Novelty(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Since when this has been going on."""

    first_seen_at: Annotated[
        Label, _field("Bar of the first event of this run: same key and subtype, no long pause")
    ]


class DataQuality(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far the row behind the event can be trusted."""

    status: Annotated[Verdict, _field("Verdict on the minute; anything but `ok` is a warning")]
    ingest_lag_ms: Annotated[
        int | None, _field("From the close of the bar to the row, by the clock of arrival", "ms")
    ] = None
    book_staleness_ms: Annotated[
        int | None, _field("Age of the top of the book at the close", "ms")
    ] = None
    oi_staleness_ms: Annotated[
        int | None, _field("Age of the open interest at the close", "ms")
    ] = None


class LocalState(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the detector saw on the row of the asset."""

    dq: DataQuality
    features: Annotated[
        dict[Name, int | float],
        Meta(
            max_length=256,
            description="Columns of the row by name: the detector's inputs and a common panel, in"
            " the units of the feature pack. A column that is not known is not there",
        ),
    ] = {}
    flags: Annotated[
        dict[Name, bool],
        Meta(
            max_length=256,
            description="Flags of the row; those that are not true are left out",
        ),
    ] = {}
    inferred: Annotated[
        bool,
        _field("The detector concludes on something no feed reports, such as liquidations"),
    ] = False


class MarketFrame(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All assets of the same minute and timeframe."""

    leader: Annotated[
        Symbol | None, _field("Symbol whose flow leads the market; NULL when nobody can be named")
    ]
    dominance_share: Annotated[
        Share | None, _field("The leader's share of the dollar volume", "share")
    ] = None
    shock_count_5s: Annotated[
        Count | None, _field("Tracked symbols with a spike in this minute", "symbols")
    ] = None
    rs_top: Annotated[Symbols | None, _field("Highest relative strength, best first")] = None
    rs_bottom: Annotated[Symbols | None, _field("Lowest relative strength, worst first")] = None
    return_dispersion_m_5: Annotated[
        NotNegative | None, _field("Standard deviation of 5m returns across assets", "ratio")
    ] = None
    vol_dispersion_m_5: Annotated[
        NotNegative | None, _field("Standard deviation of volume z across assets", "sigma")
    ] = None
    time_to_next_funding_sec: Annotated[
        Count | None, _field("From the close of the bar to the next funding payment", "s")
    ] = None


class Membership(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why the asset is heard at all."""

    is_in_universe: Annotated[bool, _field("The asset is a member of the universe")]
    is_hot: Annotated[bool, _field("The asset is on the hot list")]
    universe_rev: Annotated[Count, _field("Revision of the membership, counted from the start")]


class Provenance(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is needed to compute the event again."""

    producer: Annotated[Text, _field("Program and version")]
    feature_pack: Annotated[PackVersion, _field("Version of the columns")]
    detector_pack: Annotated[PackVersion, _field("Version of detectors and thresholds")]
    config_hash: Annotated[
        str,
        Meta(
            pattern=rf"^sha256:{_HEX}{{64}}\Z",
            description="Hash over feature pack, detector pack and universe policy",
        ),
    ]
    git_commit: Annotated[
        Text | None, _field("Commit of the build; NULL where it was not recorded")
    ]
    universe_policy_rev: Annotated[Count, _field("Revision of the rules of membership")]
    source_lag_ms: Annotated[int | None, _field("As ingest_lag_ms of the row", "ms")]
    clock_skew_ms: Annotated[
        int | None,
        _field("Clock of arrival against the venue's; NULL when nothing was dated", "ms"),
    ]
    replay_of: Annotated[
        bool,
        _field("Emitted again by a replay; on the replay topic only, and not part of any digest"),
    ] = False


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event: what stood out in one bar of one asset, or of the market itself.

    Fields that are not required may be absent; where null is allowed it says the same: not known.
    Readers ignore fields that are not listed. Numbers are finite, floats have 12 significant
    digits, times are UTC.
    """

    v: Annotated[
        str,
        Meta(
            pattern=r"^0\.[0-9]{1,3}\Z",
            description="Version of the contract; the part after the dot counts added fields",
        ),
    ]
    event_id: Annotated[
        EventId, _field("UUIDv7 made of time and content: the key to drop repeats by")
    ]
    emitted_at: Annotated[Time, _field("When it was decided, by the clock of arrival")]
    exchange_ts: Annotated[Label, _field("Close of the bar, which names it")]
    ingest_ts: Annotated[Time | None, _field("When the row was made")] = None
    symbol: Annotated[Symbol, _field("Name of the asset at the venue; MARKET with asset_uid -1")]
    asset_uid: Annotated[
        int,
        Meta(
            ge=-1,
            le=2**31 - 1,
            description="Id of the asset at the venue and key of the message; -1 is the market",
        ),
    ]
    tf: Annotated[Timeframe, _field("Timeframe of the bar")]
    event_class: Annotated[EventClass, _field("Kind of the event")] = msgspec.field(name="class")
    subtype: Annotated[Subtype, _field("The detector, without its class; packs may add some")]
    window_sec: Annotated[
        Annotated[int, Meta(ge=1, le=86_400)] | None, _field("Length of the bar", "s")
    ] = None
    severity: Annotated[
        int,
        Meta(ge=0, le=100, description="How much it stands out; comparable within a class"),
    ]
    novelty: Novelty | None = None
    debounce_key: Annotated[
        Annotated[str, Meta(min_length=1, max_length=96)],
        _field("SYMBOL:CLASS:TF; a later event of the key replaces an earlier one"),
    ]
    coalesced: Annotated[
        tuple[Subtype, ...],
        Meta(
            max_length=16,
            description="Weaker subtypes of the same key and bar that this event speaks for",
        ),
    ] = ()
    local_state: LocalState
    market_frame: MarketFrame
    membership: Membership
    provenance: Provenance
