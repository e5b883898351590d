"""The event contract v0.1 as types: what an event may say, and why one may not be published.

Rules of this file: what build plan 11.1 requires has no default, all else may be absent, and where
NULL is allowed it says the same, "not known"; readers ignore fields they do not know, writers may
not invent any; fields are only ever added, each optional, and a bound never changes (11.6).
What breaks the contract becomes a dead letter with its reason: never published, never lost.
The documents under docs/contract are made from these types.  Build plan 11; design 6, 9 (D17, D24).
"""

from __future__ import annotations

import json
import math
import re
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
import orjson
from msgspec import Meta, Struct

from operators.strays import has_strays

CONTRACT_VERSION = "0.1"
# Ten times a usual event; with all 140 columns a detector may name it is still below 12 KB. Brokers
# take a megabyte unless told otherwise, so the limit is for readers: whatever is larger is a bug.
EVENT_BYTES_MAX = 16_384
ARRAY_MAX = 16  # build plan 11.2
FEATURES_MAX = 256  # a detector names at most 64 inputs and 64 payload columns, beside the panel
DEAD_TEXT_MAX = 65_536  # characters kept of a payload that broke the contract
REASON_MAX = 500  # characters

_MARKET = (-1, "MARKET")


class ContractError(ValueError):
    """Bytes that are no event of this contract; the message is one line: path, expected, found."""


def _field(text: str, unit: str = "") -> Meta:
    """Return what the schema says of a field; an integer without a unit is a count or an id."""
    return Meta(description=text, extra_json_schema={"x-unit": unit} if unit else None)


# --- values --------------------------------------------------------------------------------------

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
# Whatever a pack allows, such as basket_shock_Δt_5s; every dialect of patterns reads this alike.
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
BarRef = Annotated[str, Meta(pattern=rf"^.{{1,64}}/(1m|15m|1h)/{_LABEL}\Z")]
Count = Annotated[int, Meta(ge=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Symbols = Annotated[tuple[Symbol, ...], Meta(max_length=ARRAY_MAX)]

# --- the event -----------------------------------------------------------------------------------


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
            max_length=FEATURES_MAX,
            description="Columns of the row by name: the detector's inputs and a common panel, in"
            " the units of the feature pack. A column that is not known is not there",
        ),
    ] = {}
    flags: Annotated[
        dict[Name, bool],
        Meta(
            max_length=FEATURES_MAX,
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


class Attachments(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where to look closer."""

    bar_refs: Annotated[
        dict[Timeframe, Annotated[tuple[BarRef, ...], Meta(max_length=ARRAY_MAX)]],
        Meta(
            description="Bars the event's window covers, by timeframe, oldest first, as"
            " SYMBOL/TF/CLOSE; a symbol may hold a slash, so split from the right. A bar that is"
            " named need not be stored. Events of the market name none",
            extra_json_schema={"propertyNames": {"enum": list(get_args(Timeframe))}},
        ),
    ] = {}


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
            max_length=ARRAY_MAX,
            description="Weaker subtypes of the same key and bar that this event speaks for",
        ),
    ] = ()
    incident_id: Annotated[
        Annotated[str, Meta(min_length=1, max_length=64)] | None,
        _field("Events of one minute that share a cause carry the same"),
    ] = None
    local_state: LocalState
    market_frame: MarketFrame
    membership: Membership
    provenance: Provenance
    attachments: Attachments | None = None


class DeadLetter(Struct, frozen=True):
    """An event that broke the contract, as it goes to the dead-letter topic."""

    event_id: Annotated[
        Annotated[str, Meta(max_length=64)] | None,
        _field("As the event says; null where it does not, or not as text"),
    ]
    asset_uid: Annotated[int | None, _field("As the event says; null where it is no integer")]
    exchange_ts: Annotated[
        Annotated[str, Meta(max_length=64)] | None,
        _field("As the event says; null where it does not, or not as text"),
    ]
    reason: Annotated[
        str, Meta(max_length=REASON_MAX, description="Where, what was expected, what was found")
    ]
    size_bytes: Annotated[int, _field("Of the whole payload as text", "bytes")]
    payload: Annotated[
        str,
        Meta(
            max_length=DEAD_TEXT_MAX,
            description="The event as JSON text, with NaN and Infinity where it held them; cut"
            " where size_bytes says that it was longer",
        ),
    ]


# --- reading and checking ------------------------------------------------------------------------

_DECODER = msgspec.json.Decoder(Event)
# All a reader can meet: wrong shape or broken JSON, broken UTF-8, nesting without end.
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def parse(data: bytes) -> Event:
    """Return the event of a message as a consumer reads it; unknown fields are ignored.

    Raises ContractError, in one line, for what does not fit.

    >>> parse(b'{"v": 1}')
    Traceback (most recent call last):
    operators.contract.ContractError: v: expected str, found 1
    """
    try:
        return _DECODER.decode(data)
    except _UNREADABLE as error:
        raise ContractError(_explained(error, data)) from error


def fault_of(payload: dict[str, Any]) -> str | None:
    """Return why an event may not be published: path, expected, found; None if it may.

    Never raises, whatever is in the payload.

    >>> fault_of({"v": "0.1", "mood": "calm"})
    'mood: expected a field of the contract, found none it has'
    """
    if has_strays(payload, _KNOWN):
        return _first_stray(payload, _KNOWN, "")
    try:
        data = orjson.dumps(payload, option=orjson.OPT_SORT_KEYS)
    except TypeError as error:
        return f"event: expected values that JSON has, found: {_cut(str(error), 200)}"
    if len(data) > EVENT_BYTES_MAX:
        return f"event: expected at most {EVENT_BYTES_MAX} bytes, found {len(data)}"
    try:
        return _broken_rule(_DECODER.decode(data))
    except _UNREADABLE as error:
        return _explained(error, data)


def dead_letter(payload: dict[str, Any], reason: str) -> DeadLetter:
    """Return the dead letter of an event that `fault_of` found fault with.  Never raises."""
    try:
        text = json.dumps(payload, sort_keys=True, default=lambda value: type(value).__name__)
    except (TypeError, ValueError, RecursionError) as error:
        text = f"no text: {type(error).__name__}"
    uid = payload.get("asset_uid")
    return DeadLetter(
        event_id=_plain(payload.get("event_id")),
        asset_uid=uid if type(uid) is int and abs(uid) < 2**63 else None,
        exchange_ts=_plain(payload.get("exchange_ts")),
        reason=_cut(reason, REASON_MAX),
        size_bytes=len(text),  # json.dumps writes ASCII
        payload=text[:DEAD_TEXT_MAX],
    )


def _broken_rule(event: Event) -> str | None:
    """Return the first rule between fields that does not hold."""
    uid, symbol = _MARKET
    if event.asset_uid == uid and event.symbol != symbol:
        return f"symbol: expected {symbol} with asset_uid {uid}, found {_shown(event.symbol)}"
    key = f"{event.symbol}:{event.event_class}:{event.tf}"
    if event.debounce_key != key:
        return f"debounce_key: expected {key}, found {_shown(event.debounce_key)}"
    return None


# Field name -> the same of what is inside; None for what is no object with fields.
_Known = dict[str, "_Known | None"]


def _known(struct: type[Struct]) -> _Known:
    hints = get_type_hints(struct)
    return {
        field.encode_name: next(
            (
                _known(kind)
                for kind in (hints[field.name], *get_args(hints[field.name]))
                if isinstance(kind, type) and issubclass(kind, Struct)
            ),
            None,
        )
        for field in msgspec.structs.fields(struct)
    }


_KNOWN = _known(Event)


def _first_stray(value: dict[Any, Any], known: _Known | None, path: str) -> str | None:
    """Return the first unknown field or number that is not finite, which bytes would not show."""
    for key, item in value.items():
        if known is not None and key not in known:
            return f"{path}{_word(key)}: expected a field of the contract, found none it has"
        kind = type(item)
        if kind is dict and known is not None:  # the decoder minds what is deeper than that
            fault = _first_stray(item, known[key], f"{path}{key}.")
            if fault is not None:
                return fault
        elif kind is float and not math.isfinite(item):
            return f"{path}{_word(key)}: expected a finite number, found {item}"
        elif kind is list or kind is tuple:
            for index, part in enumerate(item):
                if type(part) is float and not math.isfinite(part):
                    where = f"{path}{_word(key)}[{index}]"
                    return f"{where}: expected a finite number, found {part}"
    return None


# --- words for what the decoder found ------------------------------------------------------------

_PROBLEM = re.compile(r"^(.*?)(?: - at (`key` in )?`\$(.*)`)?$", re.DOTALL)
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]|\[\.\.\.\]")
_ENUMS: dict[str, tuple[str, ...]] = {
    "tf": get_args(Timeframe),
    "bar_refs": get_args(Timeframe),
    "class": get_args(EventClass),
    "status": get_args(Verdict),
}


def _explained(error: Exception, data: bytes) -> str:
    """Return one line: where, what was expected, what was found."""
    if not isinstance(error, msgspec.ValidationError):
        return f"event: expected JSON in UTF-8, found: {_cut(str(error).splitlines()[0], 200)}"
    matched = _PROBLEM.match(str(error))
    assert matched is not None, error  # it matches any text
    problem, is_key, place = matched.groups()
    try:
        root = msgspec.json.decode(data)
    except _UNREADABLE:  # and it is not even JSON
        return f"event: {problem[:1].lower()}{problem[1:]}"
    path, found = _followed(root, place or "", str(error), is_key=bool(is_key))
    missing = re.fullmatch(r"Object missing required field `(.*)`", problem)
    if missing is not None:
        where = f"{path}.{missing.group(1)}".lstrip(".")
        return f"{where}: expected a value, found nothing"
    if problem.startswith("Invalid enum value"):
        name = re.findall(r"\w+", path if not is_key else (place or ""))[-1]
        expected = f"one of {', '.join(_ENUMS[name])}"
    else:
        expected = problem.removeprefix("Expected ").partition(", got ")[0].replace("`", "")
    return f"{path or 'event'}: expected {expected}, found {_shown(found)}"


def _followed(root: Any, place: str, message: str, *, is_key: bool) -> tuple[str, Any]:
    """Return path and value of a place such as `.attachments.bar_refs[...][3]`.

    `[...]` is some value of a mapping, and a bad key is named by its mapping alone: the first entry
    that alone gives the same message is the one.  The root is taken apart on the way.
    """
    path, value = "", root
    for step in [*_STEP.finditer(place), *([None] if is_key else [])]:
        name, index = (None, None) if step is None else step.groups()
        if name is not None:
            path, value = f"{path}.{name}", value[name]
        elif index is not None:
            path, value = f"{path}[{index}]", value[int(index)]
        else:
            key, item = _culprit(root, value, message)
            path, value = f"{path}.{_word(key)}", key if is_key else item
    return path.lstrip("."), value


def _culprit(root: Any, mapping: dict[str, Any], message: str) -> tuple[str, Any]:
    """Return the first entry of a mapping inside `root` with which alone it fails the same way."""
    entries = list(mapping.items())
    for key, item in entries:
        mapping.clear()
        mapping[key] = item
        try:
            _DECODER.decode(msgspec.json.encode(root))
        except msgspec.ValidationError as error:
            if str(error) == message:
                return key, item
    return entries[0]


def _word(key: object) -> str:
    """Return a key as it stands in a path: as it is if it is a word, else quoted."""
    return key if isinstance(key, str) and re.fullmatch("[0-9A-Za-z_]{1,64}", key) else _shown(key)


def _shown(value: object) -> str:
    return _cut(ascii(value), 80)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 2]}.."


def _plain(value: object) -> str | None:
    return value if isinstance(value, str) and value.isascii() and len(value) <= 64 else None
