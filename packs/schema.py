"""What may stand in a pack: one strict, frozen model per kind of file.

Rules of this file: an unknown key, a wrong type and a number out of bounds are faults, never
ignored and never converted (a whole number is accepted where a fraction is meant); a key that may
be left out has its default here, so that the hash of a pack covers it; what a detector leaves out
comes from the class defaults of its pack, and what those leave out from the plan's Appendix D. A
model knows its own file only: columns and expressions are checked by the loader. Design 5, build
plan 19.5.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from sys import intern
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from operators.expressions import RESERVED_NAMES, ColumnType
from operators.quality import VERDICTS

FAULT = "pack_fault"  # error type of the checks below; its ctx holds `found` and `expected`
Location = tuple[int | str, ...]

_T = TypeVar("_T")
_M = TypeVar("_M", bound=BaseModel)
Many = Annotated[tuple[_T, ...], Field(strict=False)]  # a list in the file, a tuple in the model
Name = Annotated[  # as long as a PostgreSQL identifier
    str,
    Field(pattern=r"^[a-z][a-z0-9_]{0,62}$", description="a name of a-z, 0-9 and _, at most 63"),
    AfterValidator(intern),  # one object for equal names: rows are looked up by them all the time
]
Text = Annotated[str, Field(max_length=500)]
Version = Annotated[
    str, Field(pattern=r"^v\d+\.\d+(\.\d+)?$", description="a version such as v0.2 or v0.2.0")
]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=1e12)]
NotNegative = Annotated[float, Field(ge=0, le=1e12)]
Count = Annotated[int, Field(ge=1, le=100_000)]
Millis = Annotated[int, Field(ge=0, le=86_400_000)]
Timeframe = Literal["1m", "15m", "1h"]
TIMEFRAMES: tuple[Timeframe, ...] = get_args(Timeframe)
MINUTE_TF: Timeframe = "1m"
TIMEFRAME_MIN: dict[Timeframe, int] = {"1m": 1, "15m": 15, "1h": 60}
Minutes = Annotated[int, Field(ge=0, le=10_080)]  # a week


class PackModel(BaseModel):
    """Frozen, strict, closed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def fault(found: str, expected: str) -> PydanticCustomError:
    """Return the error of a check that types and bounds cannot express."""
    message = "found {found}, expected {expected}"
    return PydanticCustomError(FAULT, message, {"found": found, "expected": expected})


# --- feature pack ----------------------------------------------------------------------------

FEEDS = ("trades", "bbo", "l2Book", "context")
_FEED_LIST = f"one of the feeds {', '.join(FEEDS)}"
COLUMN_TYPES: dict[str, ColumnType] = {
    "double precision": ColumnType.NUMBER,
    "bigint": ColumnType.NUMBER,
    "boolean": ColumnType.BOOLEAN,
    "text": ColumnType.TEXT,
    "text[]": ColumnType.OPAQUE,
    "timestamptz": ColumnType.OPAQUE,
}
IDENTITY_COLUMNS: dict[str, ColumnType] = {"symbol": ColumnType.TEXT}  # of every row, every pack
FRAME_COLUMNS: dict[str, ColumnType] = {  # build plan 6.2, Appendix A.10
    "leader": ColumnType.TEXT,
    "dominance_share": ColumnType.NUMBER,
    "shock_count_5s": ColumnType.NUMBER,
    "approx": ColumnType.BOOLEAN,
    "return_dispersion_m_5": ColumnType.NUMBER,
    "vol_dispersion_m_5": ColumnType.NUMBER,
    "excluded_count": ColumnType.NUMBER,
    "eligible_count": ColumnType.NUMBER,
    "universe_size": ColumnType.NUMBER,
    "time_to_next_funding_sec": ColumnType.NUMBER,
    "leader_z_vol": ColumnType.NUMBER,
    # On frames of 15m rows: this step and the two before it. Numerics 10.
    "leader_z_vol_before_1": ColumnType.NUMBER,
    "leader_z_vol_before_2": ColumnType.NUMBER,
    "followers_rs": ColumnType.NUMBER,
    "followers_rs_before_1": ColumnType.NUMBER,
    "followers_rs_before_2": ColumnType.NUMBER,
    "sector_leader": ColumnType.TEXT,
    "sector_margin": ColumnType.NUMBER,
    "sector_former": ColumnType.TEXT,
    "sector_former_rank": ColumnType.NUMBER,
}
SECTOR_COLUMNS = frozenset(name for name in FRAME_COLUMNS if name.startswith("sector_"))


class Lattice(PackModel):
    """When a minute seals and becomes final, ms of the arrival clock. Design 2."""

    lateness_ms: Millis
    grace_ms: Millis
    future_ms_max: Millis
    arrival_jump_gap_ms: Millis

    @field_validator("grace_ms")
    @classmethod
    def _final_after_seal(cls, value: int, info: Any) -> int:
        lateness = info.data.get("lateness_ms", 0)
        if value < lateness:
            raise fault(f"{value}", f"at least lateness_ms, {lateness}")
        return value


class Quality(PackModel):
    """Limits of the per-minute verdict. Build plan 8.1, 8.6, 10.7."""

    book_staleness_ms_max: Millis
    book_staleness_ms_near: Millis
    depth_staleness_ms_max: Millis
    oi_staleness_ms_max: Millis
    late_ticks_partial: Count
    clock_skew_ms_partial: Millis
    clock_skew_ms_stale: Millis
    ret_abs_max: Annotated[float, Field(gt=0, le=10)]
    absurd_price_factor: Annotated[float, Field(gt=1, le=1000)]


class Illiquidity(PackModel):
    """Guards against thin markets. Build plan 8.3, 10.7."""

    v_min_quote: NotNegative
    v_min_median_share: Share
    spread_cap_median_multiple: Annotated[float, Field(ge=1, le=1000)]
    median_days: Annotated[int, Field(ge=1, le=31)]
    near_factor: Annotated[float, Field(ge=1, le=10)]


class Rollup(PackModel):
    """When a 15m or 1h row is partial or stale, by the share of its minutes. Build plan 15.3.

    forgiven : reasons that do not make a minute count as not ok when it has no other.
    """

    partial_share: Share
    stale_share: Share
    forgiven: Many[Text] = ()


class RelativeStrength(PackModel):
    """Weights of rs_score_m_5. Build plan 6.3."""

    w_ret: Annotated[float, Field(ge=0, le=10)]
    w_vol: Annotated[float, Field(ge=0, le=10)]
    w_oi: Annotated[float, Field(ge=0, le=10)]
    z_cap: Annotated[float, Field(gt=0, le=100)]


class Robust(PackModel):
    """Constants of the baselines. Numerics reference 3, 5, 8."""

    min_samples: Count
    low_confidence_samples: Count
    clip_sigma: Annotated[float, Field(gt=0, le=100)]
    kappa: Annotated[float, Field(gt=0, le=1)]
    mad_consistency: Annotated[float, Field(gt=0, le=10)]
    d_clip: Annotated[float, Field(gt=0, le=100)]
    clamp_iqr_multiple: Annotated[float, Field(gt=0, le=100)]
    clamp_iqr_floor: Annotated[float, Field(gt=0, le=100)]
    clamp_default: Annotated[float, Field(gt=0, le=100)]
    sketch_prune_share: Annotated[float, Field(ge=0, lt=1)]


class Decay(PackModel):
    """Forgetting of one timeframe per accepted bar. Numerics reference 3."""

    a_m: Annotated[float, Field(gt=0, lt=1)]
    a_s: Annotated[float, Field(gt=0, lt=1)]
    growth: Annotated[float, Field(gt=1, le=2)]


class Decays(PackModel):
    """Forgetting by timeframe."""

    m_1: Decay = Field(alias="1m")
    m_15: Decay = Field(alias="15m")
    h_1: Decay = Field(alias="1h")

    def of(self, tf: Timeframe) -> Decay:
        """Return the decay of one timeframe."""
        return {"1m": self.m_1, "15m": self.m_15, "1h": self.h_1}[tf]


class Normalised(PackModel):
    """A raw column and what its baseline writes: z, rank q, location, scale and divisor.

    d_min : floor of the divisor inside asinh, for `asinh` and only there. tfs : rows on which it
    is kept. sampled : `hourly` moves the baseline on full hours only, with `decay` in place of the
    timeframe's own. Numerics reference 2, 3.
    """

    feature: Name
    source: Name
    transform: Literal["log1p", "pow_3_8", "log", "asinh"]
    s_min: Positive
    d_min: Positive | None = None
    x_zero: NotNegative
    z: Name | None = None
    q: Name | None = None
    mean: Name | None = None
    scale: Name | None = None
    divisor: Name | None = None
    tfs: Annotated[Many[Timeframe], Field(min_length=1, max_length=3)] = TIMEFRAMES
    sampled: Literal["every_bar", "hourly"] = "every_bar"
    decay: Decay | None = None

    @field_validator("d_min")
    @classmethod
    def _only_with_asinh(cls, value: float | None, info: Any) -> float | None:
        transform = info.data.get("transform")
        if transform is not None and (value is None) is (transform == "asinh"):
            expected = "a number" if transform == "asinh" else "nothing"
            raise fault(f"{value}", f"{expected} with transform {transform}")
        return value


Fold = Literal[
    "first",
    "last",
    "last_known",
    "min",
    "max",
    "sum",
    "mean",
    "median",
    "p95",
    "recompute",
    "alias",
]
_FOLD_WORDS: dict[str, str] = {
    "first": "first known {name} among the parts of the bar",
    "last": "{name} of the last part of the bar",
    "last_known": "last known {name} among the parts of the bar",
    "min": "smallest {name} of the parts of the bar",
    "max": "largest {name} of the parts of the bar",
    "sum": "sum of {name} over the parts of the bar",
    "mean": "mean of {name} over the parts of the bar",
    "median": "median of {name} over the parts of the bar",
    "p95": "95th percentile of {name} over the parts of the bar",
}
_FOLD_NULLS: dict[str, str] = {
    "last": "it is in the last part",
    "sum": "no part has it, or one with a volume lacks it",
    "mean": "too few parts have it",
    "median": "too few parts have it",
    "p95": "too few parts have it",
}
_NO_PART = "no part has it"
_WINDOW_OF_NAME = re.compile(r"_([smh]_[1-9]\d*)$")


class Column(PackModel):
    """One column of a feature row: its SQL type, unit, formula, inputs and when it is NULL.

    rollup : how a 15m row gets it from its 1m rows and a 1h row from its 15m rows; `recompute` is
    the formula at that timeframe, `alias` says that another column is the same there; left out, it
    is on the rows of `tfs` alone. at : its names on 15m and 1h rows, left out the same name.
    formula_at, inputs_at : its formula and inputs there, where those of the minute do not fit.
    status : a `shadow` column is on trial: computed into the extras, without a column of its own,
    until the pack `pack_proposed` (build plan 20.2).
    """

    name: Name
    family: Name
    type: Literal["double precision", "bigint", "boolean", "text", "text[]", "timestamptz"]
    unit: Text
    window: Annotated[
        str, Field(pattern=r"^([smhd]_[1-9]\d*|day)$", description="a window such as m_5, or day")
    ]
    formula: Text
    inputs: Many[Text]
    when_null: Text
    rollup: Fold | None = None
    at: Annotated[Many[Name], Field(max_length=2)] = ()
    formula_at: Text | None = None
    inputs_at: Many[Text] | None = None
    tfs: Annotated[Many[Timeframe], Field(min_length=1, max_length=3)] = ("1m",)
    status: Literal["active", "shadow"] = "active"
    pack_proposed: Version | None = None

    @field_validator("at")
    @classmethod
    def _both_or_none(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) == 1:
            raise fault("one name", "two names, on 15m and on 1h rows, or none")
        return value

    def name_at(self, tf: Timeframe) -> str | None:
        """Return the column's name on the rows of a timeframe, None if it is not on them."""
        if tf == MINUTE_TF or self.rollup is None:
            return self.name if tf in self.tfs else None
        return self.at[TIMEFRAMES.index(tf) - 1] if self.at else self.name


@dataclass(frozen=True, slots=True)
class RegisteredColumn:
    """A column under the name it has in tables, with the timeframes whose rows carry it.

    base : the name in the pack, which is also the one that expressions use on every timeframe.
    """

    name: str
    base: str
    tfs: tuple[Timeframe, ...]
    family: str
    type: str
    unit: str
    window: str
    formula: str
    inputs: tuple[str, ...]
    when_null: str
    normalised: bool
    status: str
    pack_proposed: str | None


class FeaturePack(PackModel):
    """Every column of a feature row, how it is normalised, and the limits of data quality."""

    feature_pack: Version
    pack_rev: Annotated[int, Field(ge=0, le=1_000_000)]
    lattice: Lattice
    quality: Quality
    illiquidity: Illiquidity
    rollup: Rollup
    relative_strength: RelativeStrength
    robust: Robust
    decay: Decays
    normalised: Annotated[Many[Normalised], Field(max_length=100)]
    columns: Annotated[Many[Column], Field(min_length=1, max_length=500)]

    @model_validator(mode="wrap")
    @classmethod
    def _linked(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        return _with_links(cls.__name__, value, handler, _feature_links)

    def column_types(self) -> dict[str, ColumnType]:
        """Return what an expression can do with each column of a row, by name."""
        return IDENTITY_COLUMNS | {c.name: COLUMN_TYPES[c.type] for c in self.stored}

    def names(self, tf: Timeframe) -> dict[str, str]:
        """Return pack name -> name on the rows of a timeframe, of every column they carry."""
        return self._names[tf]

    @cached_property
    def _names(self) -> dict[str, dict[str, str]]:
        return {
            tf: {
                column.name: name
                for column in self.columns
                if column.status == "active" and (name := column.name_at(tf)) is not None
            }
            for tf in TIMEFRAMES
        }

    @cached_property
    def registry(self) -> tuple[RegisteredColumn, ...]:
        """Every column under every name it has, in the order of the pack."""
        found: dict[str, RegisteredColumn] = {}
        for column in self.columns:
            for tf in TIMEFRAMES:
                name = column.name_at(tf)
                if name is None or (column.rollup == "alias" and tf != MINUTE_TF):
                    continue
                known = found.get(name)
                tfs = (tf,) if known is None else (*known.tfs, tf)
                new = self._registered(column, name, tf) if known is None else known
                found[name] = replace(new, tfs=tuple(t for t in TIMEFRAMES if t in tfs))
        declared = {column.name: column for column in self.columns}
        for name in found.keys() & declared.keys():  # its own words, not those of a longer bar
            own = self._registered(declared[name], name, MINUTE_TF)
            found[name] = replace(own, tfs=found[name].tfs)
        order = {name: i for i, name in enumerate(declared)}
        return tuple(
            sorted(found.values(), key=lambda c: (order[c.base], TIMEFRAMES.index(c.tfs[0])))
        )

    @cached_property
    def stored(self) -> tuple[RegisteredColumn, ...]:
        """The registry without what is on trial: the columns of the tables."""
        return tuple(column for column in self.registry if column.status == "active")

    def _registered(self, column: Column, name: str, tf: Timeframe) -> RegisteredColumn:
        names = self._names[tf]
        renamed = column.rollup is not None and tf != MINUTE_TF

        def words(text: str) -> str:
            return re.sub(r"[a-z]\w*", lambda m: names.get(m.group(), m.group()), text)

        formula, inputs, when_null = column.formula, column.inputs, column.when_null
        if renamed and column.rollup in _FOLD_WORDS:
            part = column.name if tf == TIMEFRAMES[1] else column.name_at(TIMEFRAMES[1])
            formula, inputs = _FOLD_WORDS[column.rollup].format(name=part), (part or column.name,)
            when_null = _FOLD_NULLS.get(column.rollup, _NO_PART)
        elif renamed:
            formula = words(column.formula_at or formula)
            inputs = tuple(map(words, column.inputs_at or inputs))
            when_null = words(when_null)
        window = _WINDOW_OF_NAME.search(name)
        return RegisteredColumn(
            name=name,
            base=column.name,
            tfs=(tf,),
            family=column.family,
            type=column.type,
            unit=column.unit,
            window=window.group(1) if renamed and window else column.window,
            formula=formula,
            inputs=inputs,
            when_null=when_null,
            normalised=any(
                names.get(n.source) == name and n.z is not None and tf in n.tfs
                for n in self.normalised
            ),
            status=column.status,
            pack_proposed=column.pack_proposed,
        )


def _feature_links(raw: Mapping[str, Any]) -> Iterator[InitErrorDetails]:
    """Yield the faults between entries: names given twice, references to nothing."""
    columns = rows_of(raw, "columns")
    known = {name for _, row in columns if isinstance(name := row.get("name"), str)}
    yield from _repeated("columns", columns, "name")
    for i, row in columns:
        name = row.get("name")
        if isinstance(name, str) and name in RESERVED_NAMES | IDENTITY_COLUMNS.keys():
            yield _detail(("columns", i, "name"), name, "taken", "another name")
        inputs = row.get("inputs")
        for j, item in enumerate(inputs if isinstance(inputs, list) else []):
            if isinstance(item, str) and item not in known and item not in FEEDS:
                where = ("columns", i, "inputs", j)
                yield _detail(where, item, "unknown", f"a column of this pack, or {_FEED_LIST}")
        if row.get("status") == "shadow" and "pack_proposed" not in row:
            yield _detail(("columns", i, "pack_proposed"), None, "nothing", "the pack it is for")
        if row.get("rollup") == "alias" and not row.get("at"):
            yield _detail(("columns", i, "at"), None, "nothing", "the names of what it stands for")
    forgiven = raw["rollup"].get("forgiven") if isinstance(raw.get("rollup"), dict) else None
    for i, reason in enumerate(forgiven if isinstance(forgiven, list) else []):
        if reason not in VERDICTS:
            known_reasons = f"one of {', '.join(VERDICTS)}"
            yield _detail(("rollup", "forgiven", i), reason, "unknown", known_reasons)
    normalised = rows_of(raw, "normalised")
    yield from _repeated("normalised", normalised, "feature")
    for i, row in normalised:
        for key in ("z", "q", "mean", "scale") if row.get("sampled") == "hourly" else ():
            if row.get(key) is not None:  # between its samples it has a divisor and nothing else
                yield _detail(("normalised", i, key), row[key], "given", "nothing when hourly")
        for key in ("source", "z", "q", "mean", "scale", "divisor"):
            if isinstance(name := row.get(key), str) and name not in known:
                yield _detail(("normalised", i, key), name, "unknown", "a column of this pack")


Coin = Annotated[str, Field(min_length=1, max_length=64)]

# --- detector pack ---------------------------------------------------------------------------

EventClass = Literal["spike", "shift", "quadrant", "divergence", "synchrony", "rotation"]
EVENT_CLASSES: tuple[EventClass, ...] = get_args(EventClass)
CLASS_ALIASES: dict[str, EventClass] = {
    "sync": "synchrony",
    "div": "divergence",
    "rot": "rotation",
}
Mode = Literal["off", "shadow", "canary", "live"]

# What a pack leaves out of class_defaults and budgets. Build plan, Appendix D.1: publish_threshold;
# D.2: cooldown_sec, half_life_sec; D.3: weights (the plan's score has no bias); D.5: budgets.
PLAN_CLASS_DEFAULTS: dict[EventClass, dict[str, Any]] = {
    "spike": {
        "cooldown_sec": 45.0,
        "half_life_sec": 120.0,
        "weights": {"w1": 1.0, "w2": 0.5, "w3": 0.4, "a": 0.6},
        "publish_threshold": 65.0,
    },
    "shift": {
        "cooldown_sec": 90.0,
        "half_life_sec": 300.0,
        "weights": {"w1": 0.7, "w2": 0.8, "w3": 0.2, "a": 0.55},
        "publish_threshold": 60.0,
    },
    "quadrant": {
        "cooldown_sec": 90.0,
        "half_life_sec": 180.0,
        "weights": {"w1": 0.8, "w2": 0.6, "w3": 0.2, "a": 0.58},
        "publish_threshold": 55.0,
    },
    "divergence": {
        "cooldown_sec": 90.0,
        "half_life_sec": 240.0,
        "weights": {"w1": 0.8, "w2": 0.7, "w3": 0.2, "a": 0.58},
        "publish_threshold": 55.0,
    },
    "synchrony": {
        "cooldown_sec": 60.0,
        "half_life_sec": 60.0,
        "weights": {"w1": 0.4, "w2": 0.3, "w3": 1.0, "a": 0.55},
        "publish_threshold": 60.0,
    },
    "rotation": {
        "cooldown_sec": 300.0,
        "half_life_sec": 900.0,
        "weights": {"w1": 0.7, "w2": 0.5, "w3": 0.4, "a": 0.52},
        "publish_threshold": 55.0,
    },
}
PLAN_BUDGETS: dict[EventClass, int] = {
    "spike": 4,
    "shift": 2,
    "quadrant": 2,
    "divergence": 2,
    "synchrony": 2,
    "rotation": 1,
}

CooldownSec = Annotated[float, Field(ge=0, le=86_400)]
HalfLifeSec = Annotated[float, Field(ge=1, le=86_400)]
Weight = Annotated[float, Field(ge=0, le=10)]
Steepness = Annotated[float, Field(gt=0, le=10)]
Bias = Annotated[float, Field(ge=-20, le=20)]
PublishThreshold = Annotated[float, Field(ge=0, le=100)]
ClassBudget = Annotated[int, Field(ge=0, le=1000)]


def class_name(text: Any) -> Any:
    """Return the full name of an event class given by its full or short name, else the input."""
    return CLASS_ALIASES.get(text, text) if isinstance(text, str) else text


def class_of(detector_id: str) -> EventClass:
    """Return the class an id's prefix stands for; a prefix that is no class means spike.

    Design D25.

    >>> class_of("div.price_up_cvd_down_m_5"), class_of("combo.price_up_volume_up_m_1")
    ('divergence', 'spike')
    """
    prefix = class_name(detector_id.partition(".")[0])
    return prefix if prefix in EVENT_CLASSES else "spike"


def _one_name_each(raw: Any) -> Any:
    """Reject a class given by its short and its full name in the same mapping."""
    for short, full in CLASS_ALIASES.items():
        if isinstance(raw, dict) and short in raw and full in raw:
            raise fault(f"both `{short}` and `{full}`", "one of them: they are the same class")
    return raw


ClassName = Annotated[EventClass, BeforeValidator(class_name)]


class Weights(PackModel):
    """w1 primary, w2 secondary, w3 breadth, a steepness, b bias of the severity."""

    w1: Weight
    w2: Weight
    w3: Weight
    a: Steepness
    b: Bias = 0.0


class WeightsOverride(PackModel):
    """The weights a detector changes; the others are those of its class."""

    w1: Weight | None = None
    w2: Weight | None = None
    w3: Weight | None = None
    a: Steepness | None = None
    b: Bias | None = None


class ClassDefaults(PackModel):
    """What a detector of the class uses unless it says otherwise; seconds of exchange time."""

    cooldown_sec: CooldownSec
    half_life_sec: HalfLifeSec
    weights: Weights
    publish_threshold: PublishThreshold


def _filled_defaults(raw: Any) -> Any:
    """Return class_defaults with what is left out taken from the plan, all six classes."""
    if not isinstance(raw, dict):
        return raw
    given = {class_name(key): (key, value) for key, value in raw.items()}
    filled = dict(raw)
    for name, plan in PLAN_CLASS_DEFAULTS.items():
        key, value = given.get(name, (name, {}))
        if isinstance(value, dict):
            weights = value.get("weights", {})
            if isinstance(weights, dict):
                weights = {**plan["weights"], **weights}
            filled[key] = {**plan, **value, "weights": weights}
    return filled


class Scoring(PackModel):
    """Rules of severity, novelty and re-emission that hold for the whole pack.

    Defaults are the plan's (10.3-10.5), defects included. novelty : `decaying` gives the full
    boost at once after an emission and less with time; `recovering` is the reverse (numerics 9).
    level_shift_bars : a detector that fires on nearly all of so many bars is muted until it has
    been silent for its cooldown: the level has moved, and the baseline follows; 0 is never.
    """

    novelty: Literal["decaying", "recovering"] = "decaying"
    novelty_boost: Annotated[float, Field(ge=0, le=10)] = 0.8
    reemit_growth: Annotated[float, Field(ge=0, le=10)] = 0.3
    breadth_full_count: Annotated[int, Field(ge=1, le=1000)] = 6
    w_dq: Weight = 0.6
    w_liq: Weight = 0.3
    subtype_change_resets_novelty: bool = True
    level_shift_bars: Annotated[int, Field(ge=0, le=10_000)] = 0


class Example(PackModel):
    """A row and whether the detector fires on it. A column that is not written is not NULL where
    it is only an input; one that is written as null is."""

    why: Annotated[str, Field(min_length=1, max_length=200)]
    row: dict[str, Any]
    fires: bool


def _number_as_text(raw: Any) -> Any:
    return repr(raw) if isinstance(raw, int | float) and not isinstance(raw, bool) else raw


Score = Annotated[str, BeforeValidator(_number_as_text)]  # an expression; `0` may stay unquoted


Subtype = Annotated[
    str, Field(pattern=r"^\w{1,95}$", description="letters, digits and _, at most 95")
]


class DetectorRow(PackModel):
    """One detector as written. What is None comes from the class, see the loader.

    threshold : a number that the trigger may name as `threshold`; liquidity tiers replace it.
    """

    id: Annotated[
        str,
        Field(
            pattern=r"^[a-z][a-z_]{0,31}\.\w{1,95}$",
            description="class, dot and subtype, such as spike.vol_spike_m_1",
        ),
    ]
    enabled: bool = True
    mode: Mode = "live"
    event_class: ClassName | None = Field(None, alias="class")
    subtype: Subtype | None = None
    tfs: Annotated[Many[Timeframe], Field(min_length=1, max_length=3)] = ("1m",)
    inputs: Annotated[Many[str], Field(max_length=64)] = ()
    preconditions: Annotated[Many[str], Field(max_length=32)] = ()
    threshold: Annotated[float, Field(ge=0, le=100)] | None = None
    trigger: str
    primary: Score | None = None
    secondary: Score | None = None
    cooldown_sec: CooldownSec | None = None
    half_life_sec: HalfLifeSec | None = None
    weights: WeightsOverride | None = None
    publish_threshold: PublishThreshold | None = None
    payload: Annotated[Many[str], Field(max_length=64)] | None = None
    inferred: bool = False
    description: Annotated[str, Field(max_length=2000)] = ""
    examples: Annotated[Many[Example], Field(max_length=100)] = ()

    @field_validator("tfs", "inputs", "payload")
    @classmethod
    def _once(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in sorted(set(value or ())):
            if value is not None and value.count(name) > 1:
                raise fault(f"`{name}` {value.count(name)} times", "each name once")
        return value


class Budgets(PackModel):
    """Events per minute: per asset and class, and over all assets."""

    per_symbol_per_minute: Annotated[
        dict[ClassName, ClassBudget],
        BeforeValidator(_one_name_each),
        AfterValidator(
            lambda given: {name: (PLAN_BUDGETS | given)[name] for name in EVENT_CLASSES}
        ),
    ] = Field(default_factory=dict, validate_default=True)
    global_per_minute: Annotated[int, Field(ge=1, le=100_000)] = 800


class TierClass(PackModel):
    """A class in one liquidity tier. threshold : sigma, in place of the trigger's own."""

    threshold: Annotated[float, Field(ge=0, le=100)]


class Tier(PackModel):
    """What is different in one liquidity tier."""

    spike: TierClass | None = None
    shift: TierClass | None = None
    quadrant: TierClass | None = None
    divergence: TierClass | None = Field(None, validation_alias=AliasChoices("divergence", "div"))
    synchrony: TierClass | None = Field(None, validation_alias=AliasChoices("synchrony", "sync"))
    rotation: TierClass | None = Field(None, validation_alias=AliasChoices("rotation", "rot"))
    budgets: Annotated[dict[ClassName, ClassBudget], BeforeValidator(_one_name_each)] = Field(
        default_factory=dict
    )


TierName = Literal["top", "mid", "tail"]
TIERS: tuple[TierName, ...] = get_args(TierName)
DEFAULT_TIER: TierName = "mid"


class Overrides(PackModel):
    """Differences by liquidity tier: top and tail are the first and the last decile by dollar
    volume. Build plan 19.5, Appendix D.7."""

    tiers: dict[TierName, Tier] = Field(default_factory=dict)


class Canary(PackModel):
    """Which assets hear the detectors in mode `canary`: coins by name, and a stable percentage of
    all. Build plan 19.2."""

    coins: Annotated[Many[Coin], Field(max_length=1000)] = ()
    percent: Annotated[int, Field(ge=0, le=100)] = 0


class Incidents(PackModel):
    """When events share one incident: a market-wide shock, or so many symbols of one class and
    direction in one minute; the same cause again within gap_min minutes is the same incident."""

    symbols_min: Annotated[int, Field(ge=2, le=1000)] = 3
    gap_min: Minutes = 5


class DetectorPack(PackModel):
    """Detectors with their thresholds, and the rules that score and limit them."""

    detector_pack: Version
    scoring: Scoring = Scoring()
    class_defaults: Annotated[
        dict[ClassName, ClassDefaults],
        BeforeValidator(_filled_defaults),
        BeforeValidator(_one_name_each),  # runs first
    ] = Field(default_factory=dict, validate_default=True)
    detectors: Annotated[Many[DetectorRow], Field(max_length=500)]
    budgets: Budgets = Field(default_factory=Budgets)
    overrides: Overrides = Overrides()
    canary: Canary = Canary()
    incidents: Incidents = Incidents()

    @model_validator(mode="wrap")
    @classmethod
    def _linked(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        return _with_links(cls.__name__, value, handler, _detector_links)


def _detector_links(raw: Mapping[str, Any]) -> Iterator[InitErrorDetails]:
    yield from _repeated("detectors", rows_of(raw, "detectors"), "id")


# --- universe policy -------------------------------------------------------------------------


class EntryBand(PackModel):
    """An asset enters after k_entry minutes at rank n_entry or better."""

    n_entry: Count
    k_entry: Count


class ExitBand(PackModel):
    """A member leaves after k_exit minutes beyond rank n_exit."""

    n_exit: Count
    k_exit: Count


class RankWeights(PackModel):
    """Weights of the ranks by dollar volume and by open interest."""

    wv: Share = 0.7
    wo: Share = 0.3


class Hotlist(PackModel):
    """Who is heard without being a member, and for how long.

    An asset becomes hot at severity s_hot or with one of the subtypes, for
    ttl_base_min + ttl_k_min_per_point * severity minutes. Build plan 7.4.
    """

    s_hot: Annotated[int, Field(ge=0, le=100)] = 70
    ttl_base_min: Minutes = 15
    ttl_k_min_per_point: Annotated[float, Field(ge=0, le=100)] = 0.3
    subtypes: Annotated[Many[Text], Field(max_length=100)] = ()


class BootstrapAsset(PackModel):
    """An asset that is tracked when the venue cannot be asked which there are."""

    uid: Annotated[int, Field(ge=0, le=2**31 - 1)]
    coin: Coin


def _entry_band(data: dict[str, Any]) -> EntryBand:
    return EntryBand(n_entry=max(1, data["n_base"] - 3), k_entry=3)


def _exit_band(data: dict[str, Any]) -> ExitBand:
    return ExitBand(n_exit=data["n_base"] + 5, k_exit=5)


class UniversePolicy(PackModel):
    """Which assets are members in a minute. Defaults are the plan's (7.2-7.6, 6.8).

    dead_quote : dollar volume over l1_min minutes, quote currency, below which a member that was
    stale for t_stale_min minutes is dropped at once. tier_streak_min : minutes in a row in another
    decile before the liquidity tier changes. sectors : coins by sector name.
    """

    universe_policy_rev: Annotated[int, Field(ge=0, le=1_000_000)]
    n_base: Count = 25
    entry_band: EntryBand = Field(default_factory=_entry_band)
    exit_band: ExitBand = Field(default_factory=_exit_band)
    freeze_min: Minutes = 5
    min_dwell_min: Minutes = 30
    l1_min: Annotated[int, Field(ge=1, le=1440)] = 60
    l2_min: Annotated[int, Field(ge=1, le=1440)] = 60
    weights: RankWeights = RankWeights()
    t_stale_min: Annotated[int, Field(ge=1, le=1440)] = 10
    dead_quote: NotNegative = 10_000.0
    churn_per_hour_max: Annotated[int, Field(ge=0, le=10_000)] = 5
    tier_streak_min: Annotated[int, Field(ge=1, le=1440)] = 5
    min_assets_for_context: Annotated[int, Field(ge=1, le=1000)] = 5
    majors: Annotated[Many[Coin], Field(max_length=100)] = ("BTC", "ETH")
    sectors: Annotated[dict[Name, Many[Coin]], Field(max_length=100)] = Field(default_factory=dict)
    hotlist: Hotlist = Hotlist()
    bootstrap_assets: Annotated[Many[BootstrapAsset], Field(min_length=1, max_length=5000)] = (
        BootstrapAsset(uid=0, coin="BTC"),
        BootstrapAsset(uid=1, coin="ETH"),
    )

    @model_validator(mode="wrap")
    @classmethod
    def _linked(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        return _with_links(cls.__name__, value, handler, _universe_links)


def _universe_links(raw: Mapping[str, Any]) -> Iterator[InitErrorDetails]:
    """Yield the faults between keys: bands on the wrong side, assets and coins given twice."""
    fields = UniversePolicy.model_fields
    n_base = raw.get("n_base", fields["n_base"].default)
    for band, key, low in (("entry_band", "n_entry", False), ("exit_band", "n_exit", True)):
        limit = raw[band].get(key) if isinstance(raw.get(band), dict) else None
        if not isinstance(n_base, int) or not isinstance(limit, int):
            continue
        if limit < n_base if low else limit > n_base:
            side = "at least" if low else "at most"
            yield _detail((band, key), limit, "out of order", f"{side} n_base, {n_base}")
    weights = raw.get("weights")
    if isinstance(weights, dict) and weights.get("wv") == 0 and weights.get("wo") == 0:
        yield _detail(("weights",), "wv 0, wo 0", "no order", "one of the two above 0")
    yield from _repeated("bootstrap_assets", rows_of(raw, "bootstrap_assets"), "uid")
    yield from _repeated("bootstrap_assets", rows_of(raw, "bootstrap_assets"), "coin")
    sector_of: dict[str, str] = {}
    for sector, coins in raw["sectors"].items() if isinstance(raw.get("sectors"), dict) else []:
        for i, coin in enumerate(coins if isinstance(coins, list) else []):
            first = sector_of.setdefault(str(coin), sector)
            if first != sector:
                yield _detail(("sectors", sector, i), coin, f"also in {first}", "one sector a coin")


# --- checks that look at more than one place -------------------------------------------------


def rows_of(raw: Mapping[str, Any], key: str) -> list[tuple[int, dict[str, Any]]]:
    """Return the mappings in a list of a file as read, with their positions."""
    rows = raw.get(key)
    rows = rows if isinstance(rows, list) else []
    return [(i, row) for i, row in enumerate(rows) if isinstance(row, dict)]


def _repeated(
    key: str, rows: list[tuple[int, dict[str, Any]]], name_key: str
) -> Iterator[InitErrorDetails]:
    first: dict[Any, int] = {}
    for i, row in rows:
        name = row.get(name_key)
        if isinstance(name, str | int) and first.setdefault(name, i) != i:
            found = f"given twice, in entries {first[name]} and {i}"
            yield _detail((key, i, name_key), name, found, "a value of its own")


def _detail(where: Location, value: Any, found: str, expected: str) -> InitErrorDetails:
    return {"type": fault(f"`{value}` ({found})", expected), "loc": where, "input": value}


def _with_links(
    title: str,
    value: Any,
    handler: ModelWrapValidatorHandler[_M],
    links: Callable[[Mapping[str, Any]], Iterator[InitErrorDetails]],
) -> _M:
    """Validate a model and its links together, so that neither hides the faults of the other."""
    details = list(links(value)) if isinstance(value, dict) else []
    try:
        model = handler(value)
    except ValidationError as error:
        details = [*(_again(item) for item in error.errors(include_url=False)), *details]
    if details:
        raise ValidationError.from_exception_data(title, details)
    return model


def _again(error: ErrorDetails) -> InitErrorDetails:
    """Return an error in the form in which it can be raised once more."""
    kind = PydanticCustomError(error["type"], error["msg"], error.get("ctx"))
    return {"type": kind, "loc": error["loc"], "input": error["input"]}
