"""Read packs: YAML files -> models -> compiled detectors and one hash.

Rules of this file: a pack is taken whole or not at all; nothing stops at the first fault, so one
message lists every one with file, key, what was found and what was expected; a detector's examples
run here, so a pack that loads does what its examples say; the hash covers the three packs with
defaults filled in, and neither comments nor the order of keys. Design 4, 5; build plan 13.2, 19.
"""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import orjson
import yaml
from pydantic import AliasChoices, BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from operators.expressions import (
    ColumnType,
    Expression,
    ExpressionError,
    compile_expression,
)
from packs.schema import (
    COLUMN_TYPES,
    DEFAULT_TIER,
    FAULT,
    FRAME_COLUMNS,
    IDENTITY_COLUMNS,
    SECTOR_COLUMNS,
    Budgets,
    Canary,
    DetectorPack,
    DetectorRow,
    EventClass,
    FeaturePack,
    Incidents,
    Location,
    Mode,
    Overrides,
    Scoring,
    Timeframe,
    UniversePolicy,
    Weights,
    class_name,
    class_of,
    rows_of,
)

FILE_BYTES_MAX = 1 << 20  # the shipped packs have up to 25 KB
DEPTH_MAX = 20  # levels of nesting in a file; the packs have 6
SHIPPED = {"features": "v1.0.yaml", "detectors": "v0.2.yaml", "universe": "rev17.yaml"}

_M = TypeVar("_M", bound=BaseModel)
# Of the pseudo-asset MARKET, not of an asset (design 3).
MARKET_CLASSES: tuple[EventClass, ...] = ("synchrony", "rotation")

Kind = Literal["features", "detectors", "universe", "unknown"]
_TOP_KEYS: dict[str, Kind] = {
    "feature_pack": "features",
    "detector_pack": "detectors",
    "universe_policy_rev": "universe",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong in a file. key : dotted path, list entries by their id or name."""

    file: str
    key: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.file}: {self.key}\n    found:    {self.found}\n    expected: {self.expected}"


class PackError(Exception):
    """The packs cannot be used; the message lists every fault."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = list(faults)
        count = f"{len(self.faults)} fault{'s' if len(self.faults) > 1 else ''}"
        super().__init__("\n".join([f"{count} in the packs", *map(str, self.faults)]))


@dataclass(frozen=True, slots=True)
class Detector:
    """One detector, compiled, with what it left out filled in.

    conditions : its preconditions, to be ANDed with the trigger. guards : those that are left to
    the other gates where their column is NULL, as in a bars file that does not count prints.
    secondary : None counts as 0. required : columns that must not be NULL: what conditions,
    trigger and primary name. inputs are what it looks at and publishes; a NULL among them, or a
    NULL secondary, silences nothing.
    needs_frame : some column it names is one of the market frame, so it runs after the join.
    tier_triggers : the trigger with another threshold, by the liquidity tier that has one.
    """

    detector_id: str
    event_class: EventClass
    subtype: str
    tfs: tuple[Timeframe, ...]
    mode: Mode
    enabled: bool
    inputs: tuple[str, ...]
    conditions: tuple[Expression, ...]
    guards: tuple[Expression, ...]
    trigger: Expression
    primary: Expression
    secondary: Expression | None
    cooldown_s: float
    half_life_s: float
    w1: float
    w2: float
    w3: float
    a: float
    b: float
    publish_threshold: float
    payload: tuple[str, ...]
    needs_frame: bool
    required: tuple[str, ...]
    inferred: bool
    description: str = ""
    tier_triggers: Mapping[str, Expression] = field(default_factory=dict)

    def fires(self, row: Mapping[str, Any], tier: str = DEFAULT_TIER) -> bool | None:
        """Return whether trigger and conditions hold; None (silent, to be counted) on NULL.

        tier : liquidity tier whose threshold counts.
        """
        return self._fires(row, (self.tier_triggers.get(tier, self.trigger),))

    def may_fire(self, row: Mapping[str, Any]) -> bool | None:
        """Return whether it fires with the threshold of some tier, as `fires`: the tier is known
        only after the join."""
        return self._fires(row, (self.trigger, *self.tier_triggers.values()))

    def _fires(self, row: Mapping[str, Any], triggers: tuple[Expression, ...]) -> bool | None:
        for name in self.required:
            if row.get(name) is None:
                return None
        for guard in self.guards:
            if guard.evaluate(row) is False:
                return False
        for condition in self.conditions:
            held = condition.evaluate(row)
            if held is not True:
                return None if held is None else False
        outcomes = [trigger.evaluate(row) for trigger in triggers]
        return None if None in outcomes else True in outcomes


@dataclass(frozen=True, slots=True)
class Packs:
    """The three packs of a run. config_hash : "sha256:<hex>". warnings : for people, not hashed.

    notes : what is off because something it needs is not configured, for people.
    """

    features: FeaturePack
    detectors: tuple[Detector, ...]
    scoring: Scoring
    budgets: Budgets
    overrides: Overrides
    canary: Canary
    incidents: Incidents
    universe: UniversePolicy
    feature_pack: str
    detector_pack: str
    config_hash: str
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def load_packs(
    features: Path | None = None,
    detectors: Path | None = None,
    universe: Path | None = None,
    *,
    released: bool = False,
) -> Packs:
    """Return the packs of three files, by default the shipped ones; raises PackError.

    released : a detector without a firing and a silent example is a fault, else a warning. It is
    always one in the shipped detectors.
    """
    faults: list[Fault] = []
    warnings: list[str] = []
    feature_file = _read(features, "features", faults)
    detector_file = _read(detectors, "detectors", faults)
    universe_file = _read(universe, "universe", faults)
    feature_pack = _validate(feature_file, FeaturePack, faults)
    detector_pack = _validate(detector_file, DetectorPack, faults)
    policy = _validate(universe_file, UniversePolicy, faults)
    released = released or detectors is None
    compiled = _compile(detector_file, feature_file, released, faults, warnings)
    if faults or feature_pack is None or detector_pack is None or policy is None:
        raise PackError(faults)
    pairs = zip(detector_pack.detectors, compiled, strict=True)
    found = tuple(_detector(row, part, detector_pack) for row, part in pairs if part)
    return Packs(
        features=feature_pack,
        detectors=found,
        scoring=detector_pack.scoring,
        budgets=detector_pack.budgets,
        overrides=detector_pack.overrides,
        canary=detector_pack.canary,
        incidents=detector_pack.incidents,
        universe=policy,
        feature_pack=feature_pack.feature_pack,
        detector_pack=detector_pack.detector_pack,
        config_hash=config_hash(feature_pack, detector_pack, policy),
        warnings=tuple(warnings),
        notes=tuple(_notes(found, policy)),
    )


def _notes(detectors: Sequence[Detector], policy: UniversePolicy) -> Iterator[str]:
    """Yield which detectors can never fire under a policy."""
    for detector in detectors:
        if not policy.sectors and SECTOR_COLUMNS.intersection(detector.required):
            yield f"{detector.detector_id} is off: the universe policy names no sectors"


def check_file(
    path: Path, *, features: Path | None = None, released: bool = False
) -> tuple[list[Fault], list[str], Kind]:
    """Return faults, warnings and kind of one pack, told apart by its top key; never raises.

    features : the pack whose columns a detector pack is checked against, by default the shipped.
    """
    faults: list[Fault] = []
    warnings: list[str] = []
    file = _read(path, None, faults)
    if file.kind == "features":
        _validate(file, FeaturePack, faults)
    elif file.kind == "universe":
        _validate(file, UniversePolicy, faults)
    elif file.kind == "detectors":
        _validate(file, DetectorPack, faults)
        columns = _read(features, "features", faults)
        _compile(file, columns, released, faults, warnings)
    return faults, warnings, file.kind


def config_hash(features: FeaturePack, detectors: DetectorPack, policy: UniversePolicy) -> str:
    """Return "sha256:<hex>" of what the three packs say, defaults filled in. Design 4."""
    packs = {"features": features, "detectors": detectors, "universe": policy}
    content = {name: pack.model_dump(by_alias=True) for name, pack in packs.items()}
    canonical = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    return f"sha256:{hashlib.sha256(canonical).hexdigest()}"


# --- files -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _File:
    """A file as read: label for messages, kind by its top key, content ({} if unreadable)."""

    label: str
    kind: Kind
    raw: dict[str, Any]


def _read(path: Path | None, want: Kind | None, faults: list[Fault]) -> _File:
    """Return the content of a file (None: the shipped pack of the wanted kind)."""
    if path is None:
        assert want is not None
        label = f"packs/{want}/{SHIPPED[want]}"
        resource = files(f"packs.{want}").joinpath(SHIPPED[want])
    else:
        label, resource = str(path), path
    try:
        data = resource.read_bytes()
    except OSError as error:
        faults.append(Fault(label, "(file)", error.strerror or str(error), "a file to read"))
        return _File(label, "unknown", {})
    raw = _parse(data, label, faults)
    kind = _kind_of(raw)
    if raw and (kind == "unknown" or (want is not None and kind != want)):
        keys = [key for key, known in _TOP_KEYS.items() if want in (None, known)]
        found = "keys " + ", ".join(list(raw)[:5])
        faults.append(Fault(label, "(top)", found, f"the key {' or '.join(keys)}"))
        return _File(label, "unknown", {})
    return _File(label, kind, raw)


def _kind_of(raw: Mapping[str, Any]) -> Kind:
    return next((kind for key, kind in _TOP_KEYS.items() if key in raw), "unknown")


class _YamlLoader(yaml.SafeLoader):
    """YAML reduced to what a pack needs, so that every text means one thing.

    Only true and false are booleans (so `mode: off` is text), only decimal numbers are numbers,
    keys are always text; aliases and tags are refused.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        problem = ""
        if isinstance(event, yaml.AliasEvent):
            problem = "an alias (`*name`)"
        elif event.tag is not None:
            problem = f"a tag (`{event.tag}`)"
        elif self.depth >= DEPTH_MAX:
            problem = f"more than {DEPTH_MAX} levels of nesting"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_SCALARS = {
    "bool": (r"true|false", "tf"),
    "null": (r"null|~|", ["n", "~", ""]),
    "int": (r"[-+]?(0|[1-9][0-9]{0,17})", "-+0123456789"),
    "float": (
        r"[-+]?([0-9]+[.][0-9]*|[.][0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?",
        "-+.0123456789",
    ),
}
for _name, (_pattern, _first) in _SCALARS.items():
    _YamlLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_name}", re.compile(rf"^(?:{_pattern})$"), list(_first)
    )


def _parse(data: bytes, label: str, faults: list[Fault]) -> dict[str, Any]:
    """Return the mapping a file holds; {} with a fault noted if it holds none."""
    if len(data) > FILE_BYTES_MAX:
        found = f"{len(data)} bytes"
        faults.append(Fault(label, "(file)", found, f"at most {FILE_BYTES_MAX}"))
        return {}
    try:
        loader = _YamlLoader(data.decode("utf-8"))
        node = loader.get_single_node()
        repeated = list(_repeated_keys(node, ())) if node is not None else []
        raw = loader.construct_document(node) if node is not None else None
    except UnicodeDecodeError as error:
        faults.append(Fault(label, f"byte {error.start}", "bytes that are no text", "UTF-8"))
        return {}
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # e.g. an escape of no character
        faults.append(_yaml_fault(label, error))
        return {}
    if not isinstance(raw, dict) or not raw:
        found = "nothing" if not raw else _shown(raw)
        faults.append(Fault(label, "(top)", found, f"a mapping with {' or '.join(_TOP_KEYS)}"))
        return {}
    for where, first, second in repeated:
        found = f"given twice, on lines {first} and {second}"
        faults.append(Fault(label, _key(raw, where), found, "each key once"))
    return raw


def _yaml_fault(label: str, error: Exception) -> Fault:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "(file)"
    found = getattr(error, "problem", None) or str(error).splitlines()[0]
    return Fault(label, where, found, "YAML without aliases and tags")


def _repeated_keys(node: yaml.Node, where: Location) -> Iterator[tuple[Location, int, int]]:
    """Yield place and both lines of keys given twice in a mapping; makes every key a text.

    Raises UnicodeEncodeError on text that cannot be written back, from an escape in quotes.
    """
    if isinstance(node, yaml.ScalarNode):
        node.value.encode("utf-8")
    if isinstance(node, yaml.SequenceNode):
        for i, child in enumerate(node.value):
            yield from _repeated_keys(child, (*where, i))
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, child in node.value:
            if not isinstance(key, yaml.ScalarNode):
                problem = "a key that is no text"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            key.value.encode("utf-8")
            key.tag = "tag:yaml.org,2002:str"
            line = key.start_mark.line + 1
            if key.value in lines:
                yield (*where, key.value), lines[key.value], line
            lines.setdefault(key.value, line)
            yield from _repeated_keys(child, (*where, key.value))


# --- faults of the schema --------------------------------------------------------------------


def _key(raw: Any, where: Location) -> str:
    """Return the dotted path of a place, list entries named by their id, name or feature."""
    text = ""
    for item in where:
        if item == "[key]":
            break
        raw = _entry(raw, item)
        if isinstance(item, int):
            text += f"[{_entry_name(raw, item)}]"
        else:
            text += f".{item}" if text else item
    return text or "(top)"


def _entry(raw: Any, item: int | str) -> Any:
    if isinstance(raw, list) and isinstance(item, int) and item < len(raw):
        return raw[item]
    return raw.get(item) if isinstance(raw, dict) else None


def _entry_name(raw: Any, index: int) -> str:
    names = (raw.get(key) for key in ("id", "name", "feature")) if isinstance(raw, dict) else ()
    return next((name for name in names if isinstance(name, str)), str(index))


def _validate(file: _File, model: type[_M], faults: list[Fault]) -> _M | None:
    """Return the model of a file, None with every fault noted if it does not fit."""
    if not file.raw:
        return None
    try:
        return model.model_validate(file.raw)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        faults += (_schema_fault(file, model, e) for e in errors if not _follows(e, errors, file))
        return None


def _follows(error: ErrorDetails, errors: Sequence[ErrorDetails], file: _File) -> bool:
    """Return whether an error only repeats what another one, or the missing trigger, says."""
    kind, where = error["type"], error["loc"]
    if kind == "too_short":  # because its items were refused
        return any(e["loc"][:-1] == where for e in errors)
    if kind == "extra_forbidden" and where[-1] in _THRESHOLDS:
        row_of_detector = where[0] == "detectors" and len(where) == 3
        return row_of_detector and "trigger" not in _at(file.raw, where[:-1])
    return kind == "default_factory_not_called"


def _schema_fault(file: _File, model: type[BaseModel], error: ErrorDetails) -> Fault:
    """Return an error of the schema in the words of a pack."""
    kind, where = error["type"], error["loc"]
    key = _key(file.raw, where)
    if kind == FAULT:
        return Fault(file.label, key, error["ctx"]["found"], error["ctx"]["expected"])
    if where[-1] == "trigger" and kind == "missing":
        return Fault(file.label, key, *_missing_trigger(_at(file.raw, where[:-1])))
    if kind == "extra_forbidden":
        allowed = _keys_of(_unwrapped(_annotation_at(model, where[:-1])[0])[0])
        expected = _one_of(str(where[-1]), allowed, "keys")
        return Fault(file.label, key, f"unknown key `{where[-1]}`", expected)
    found = "nothing" if kind == "missing" else _shown(error["input"])
    if where[-1] == "[key]":
        return Fault(file.label, key, f"unknown name {found}", error["ctx"]["expected"])
    expected = _expected(*_annotation_at(model, where)) or error["msg"]
    return Fault(file.label, key, found, expected)


_THRESHOLDS = ("threshold", "threshold_z")  # of the plan's excerpt; a trigger says it in full


def _missing_trigger(row: Any) -> tuple[str, str]:
    """Return what was found and expected where a detector has no trigger. Build plan 19.5."""
    column = next(iter(_z_inputs(row)), "z_vol_m_1")
    for key in _THRESHOLDS:
        if key in row:
            value = _shown(row[key])
            example = f'trigger: "{column} >= {value}"'
            return f"nothing but `{key}: {value}`", f"a condition, for example {example}"
    return "nothing", f'a condition, for example "{column} >= 3.0"'


def _at(raw: Any, where: Location) -> Any:
    for item in where:
        raw = _entry(raw, item)
    return raw


def _shown(value: Any) -> str:
    """Return a value of a file the way its author wrote it, shortened."""
    if isinstance(value, dict | list | tuple):
        return f"a {'mapping' if isinstance(value, dict) else 'list'} with {len(value)} entries"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value) if len(str(value)) <= 80 else f"{str(value)[:80]}..."
    return f"text `{text}`" if isinstance(value, str) else text


def _one_of(name: str, known: Sequence[str], what: str) -> str:
    """Return the known names, with a guess which one was meant."""
    close = get_close_matches(name, known, n=1)
    guess = f"`{close[0]}`, or another " if close else ""
    return f"{guess}one of the {what} {', '.join(known)}"


def _annotation_at(model: type[BaseModel], where: Location) -> tuple[Any, list[Any]]:
    """Return the type a model has at a place, with its constraints."""
    annotation: Any = model
    constraints: list[Any] = []
    for item in where:
        inner, _ = _unwrapped(annotation)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            field = _fields_of(inner)[str(item)]
            annotation, constraints = field.annotation, [field]
        else:  # dict[key, value] or tuple[item, ...]
            arguments = get_args(inner)
            annotation, constraints = arguments[get_origin(inner) is dict], []
    inner, more = _unwrapped(annotation)
    return inner, _flat(constraints + more)


def _unwrapped(annotation: Any) -> tuple[Any, list[Any]]:
    """Return a type without its constraints and without `| None`, and the constraints."""
    constraints: list[Any] = []
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation, *more = get_args(annotation)
            constraints += more
        elif origin in (Union, UnionType):
            annotation = next(a for a in get_args(annotation) if a is not type(None))
        else:
            return annotation, constraints


def _flat(constraints: list[Any]) -> list[Any]:
    inner = [m for c in constraints if isinstance(c, FieldInfo) for m in c.metadata]
    return constraints + inner


def _fields_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields by every key a file may use for them."""
    fields = {info.alias or name: info for name, info in model.model_fields.items()}
    for info in model.model_fields.values():
        if isinstance(info.validation_alias, AliasChoices):
            fields |= {str(key): info for key in info.validation_alias.choices}
    return fields


def _keys_of(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _expected(annotation: Any, constraints: list[Any]) -> str:
    """Return in words what a place takes, "" if there are none for it."""
    for constraint in constraints:
        if isinstance(constraint, FieldInfo) and constraint.description:
            return constraint.description
    if get_origin(annotation) is Literal:
        return f"one of {', '.join(map(str, get_args(annotation)))}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"a mapping with the keys {', '.join(_keys_of(annotation))}"
    kinds = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}
    kinds |= {tuple: "a list", dict: "a mapping"}
    kind = kinds.get(get_origin(annotation) or annotation, "")
    bounds = _bounds(constraints, "characters" if kind == "text" else "entries")
    return f"{kind} {bounds}".strip() if kind else ""


_BOUNDS = {
    "ge": "from {}",
    "gt": "above {}",
    "le": "up to {}",
    "lt": "below {}",
    "min_length": "of at least {} {unit}",
    "max_length": "of at most {} {unit}",
}


def _bounds(constraints: list[Any], unit: str) -> str:
    parts = []
    for name, words in _BOUNDS.items():
        for constraint in constraints:
            bound = getattr(constraint, name, None)
            if bound is not None:
                parts.append(words.format(f"{bound:.12g}", unit=unit))
                break
    return " ".join(parts)


# --- detectors -------------------------------------------------------------------------------

GATES = ("dq_ok", "not_illiquid", "warm")  # always enforced; accepted as preconditions, no effect
_NAMED_CONDITIONS: dict[str, tuple[re.Pattern[str], str, int]] = {
    "trade_count_ge_<n>": (re.compile(r"trade_count_ge_(\d{1,9})"), "trade_count_m_1 >= {}", 1),
    "oi_fresh_<n>s": (re.compile(r"oi_fresh_(\d{1,6})s"), "oi_staleness_ms <= {}", 1000),
}
_GUARDS = ("trade_count_ge_<n>",)
_NOT_NULL_CONDITIONS = {"basis_valid": "basis_bp_m_5"}
_KNOWN_CONDITIONS = (*GATES, *_NAMED_CONDITIONS, *_NOT_NULL_CONDITIONS)


@dataclass(frozen=True, slots=True)
class _Compiled:
    """The expressions of one detector; not_null : columns its named preconditions require."""

    conditions: tuple[Expression, ...]
    guards: tuple[Expression, ...]
    not_null: tuple[str, ...]
    trigger: Expression
    primary: Expression
    secondary: Expression | None
    frame_columns: frozenset[str]
    tier_triggers: Mapping[str, Expression]


@dataclass(frozen=True, slots=True)
class _RowScope:
    """One detector as read, and where its faults go. It may be faulty: texts are taken as found."""

    file: str
    where: str
    raw: Mapping[str, Any]
    columns: Mapping[str, ColumnType]
    frame_columns: frozenset[str]
    faults: list[Fault]

    def fault(self, key: str, found: str, expected: str) -> None:
        self.faults.append(Fault(self.file, f"{self.where}.{key}", found, expected))

    def texts(self, key: str) -> list[tuple[int, str]]:
        """Return the texts of a list, with their positions."""
        items = self.raw.get(key)
        items = items if isinstance(items, list) else []
        return [(i, item) for i, item in enumerate(items) if isinstance(item, str)]

    def known(self, key: str, name: str, found: str = "unknown column") -> bool:
        """Return whether a column exists; note a fault if not."""
        if name in self.columns:
            return True
        close = get_close_matches(name, sorted(self.columns), n=1)
        guess = f"; did you mean `{close[0]}`?" if close else ""
        self.fault(key, f"{found} `{name}`", f"a column of the feature pack or of the frame{guess}")
        return False

    def compiled(self, key: str, text: str, want: ColumnType) -> Expression | None:
        """Return the expression; note its faults if there are any."""
        try:
            return compile_expression(text, self.columns, want)
        except ExpressionError as error:
            for fault in error.faults:
                found = f"{fault.found} at position {fault.position} of `{_short(text)}`"
                self.fault(key, found, fault.expected)
            return None


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:120]}..."


def _z_inputs(raw: Mapping[str, Any]) -> list[str]:
    inputs = raw.get("inputs")
    inputs = inputs if isinstance(inputs, list) else []
    return [name for name in inputs if isinstance(name, str) and name.startswith("z_")]


def _compile(
    file: _File,
    feature_file: _File,
    released: bool,
    faults: list[Fault],
    warnings: list[str],
) -> list[_Compiled | None]:
    """Return the expressions of every detector, None for a faulty one.

    Works on the file as read, so that faults of the schema do not hide those of expressions. Does
    nothing if there is no feature pack to check against.
    """
    if not feature_file.raw:
        return []
    row_columns = dict(IDENTITY_COLUMNS)
    for _, column in rows_of(feature_file.raw, "columns"):
        kind, longer = column.get("type"), column.get("at")
        if column.get("status") == "shadow" or not isinstance(kind, str):
            continue
        for name in [column.get("name"), *(longer if isinstance(longer, list) else [])]:
            if isinstance(name, str):
                row_columns[name] = COLUMN_TYPES.get(kind, ColumnType.OPAQUE)
    columns = FRAME_COLUMNS | row_columns
    frame_columns = frozenset(FRAME_COLUMNS.keys() - row_columns.keys())
    compiled = []
    for i, raw in rows_of(file.raw, "detectors"):
        where = _key(file.raw, ("detectors", i))
        scope = _RowScope(file.label, where, raw, columns, frame_columns, faults)
        own = {tier: v for tier, name, v in _tier_thresholds(file) if name == _class_of_row(raw)}
        part = _compile_row(scope, own)
        _check_examples(scope, part, released, warnings)
        compiled.append(part)
    warnings += _idle_thresholds(file)
    return compiled


def _class_of_row(raw: Mapping[str, Any]) -> str | None:
    """Return the class of a detector as read, None if it has none that is known."""
    given = class_name(raw.get("class"))
    if isinstance(given, str):
        return given
    return class_of(raw["id"]) if isinstance(raw.get("id"), str) else None


def _tier_thresholds(file: _File) -> Iterator[tuple[str, str, float]]:
    """Yield (tier, class, threshold) of a detector file as read."""
    overrides = file.raw.get("overrides")
    tiers = overrides.get("tiers") if isinstance(overrides, dict) else None
    for tier, classes in tiers.items() if isinstance(tiers, dict) else ():
        for name, given in classes.items() if isinstance(classes, dict) else ():
            value = given.get("threshold") if isinstance(given, dict) else None
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield str(tier), str(class_name(name)), float(value)


def _idle_thresholds(file: _File) -> list[str]:
    """Return a warning for each threshold of a tier that no trigger names."""
    named = {_class_of_row(raw) for _, raw in rows_of(file.raw, "detectors") if "threshold" in raw}
    return [
        f"{file.label}: overrides.tiers.{tier}.{event_class}.threshold has no effect: no detector"
        " of the class has the key `threshold`"
        for tier, event_class, _ in _tier_thresholds(file)
        if event_class not in named
    ]


_THRESHOLD_NAME = re.compile(r"\bthreshold\b")


def _with_threshold(text: str, value: float) -> str:
    """Return a trigger with the number in place of the name.

    >>> _with_threshold("z_vol_m_1 >= threshold", 3.2)
    'z_vol_m_1 >= 3.2'
    """
    return _THRESHOLD_NAME.sub(repr(value), text)


def _trigger_text(scope: _RowScope, text: str) -> str:
    """Return the trigger with the detector's own threshold in place."""
    given, named = scope.raw.get("threshold"), bool(_THRESHOLD_NAME.search(text))
    if named and given is None:
        scope.fault("threshold", "nothing, and the trigger names it", "a number")
    if given is not None and not named:
        scope.fault("threshold", "a number that the trigger does not name", "its use, or nothing")
    if isinstance(given, int | float) and not isinstance(given, bool):
        return _with_threshold(text, float(given))
    return _with_threshold(text, 0.0)


def _compile_row(scope: _RowScope, tier_thresholds: Mapping[str, float]) -> _Compiled | None:
    before = len(scope.faults)
    for key in ("inputs", "payload"):
        for i, name in scope.texts(key):
            scope.known(f"{key}[{i}]", name)
    conditions, guards, not_null = _conditions(scope)
    text = scope.raw.get("trigger")
    trigger = None
    tier_triggers: dict[str, Expression] = {}
    if isinstance(text, str):
        trigger = scope.compiled("trigger", _trigger_text(scope, text), ColumnType.BOOLEAN)
        for tier, value in tier_thresholds.items() if "threshold" in scope.raw and trigger else ():
            other = scope.compiled("trigger", _with_threshold(text, value), ColumnType.BOOLEAN)
            assert other is not None, text
            tier_triggers[tier] = other
    primary, secondary = _scores(scope)
    if trigger is None or primary is None or len(scope.faults) > before:
        return None
    return _Compiled(
        conditions,
        guards,
        not_null,
        trigger,
        primary,
        secondary,
        scope.frame_columns,
        tier_triggers,
    )


def _conditions(
    scope: _RowScope,
) -> tuple[tuple[Expression, ...], tuple[Expression, ...], tuple[str, ...]]:
    """Return the preconditions: expressions, guards, and columns that must not be NULL."""
    conditions: list[Expression] = []
    guards: list[Expression] = []
    not_null: list[str] = []
    for i, text in scope.texts("preconditions"):
        key = f"preconditions[{i}]"
        if text in GATES:
            continue
        if text in _NOT_NULL_CONDITIONS:
            column = _NOT_NULL_CONDITIONS[text]
            if scope.known(key, column, f"`{text}`, which needs the unknown column"):
                not_null.append(column)
            continue
        expression = _named_condition(text)
        if expression is None and text.isidentifier() and text not in scope.columns:
            known = _one_of(text, _KNOWN_CONDITIONS, "preconditions")
            scope.fault(key, f"unknown precondition `{text}`", f"{known}, or an expression")
            continue
        condition = scope.compiled(key, expression or text, ColumnType.BOOLEAN)
        if condition is not None:
            (guards if _is_guard(text) else conditions).append(condition)
    return tuple(conditions), tuple(guards), tuple(not_null)


def _is_guard(text: str) -> bool:
    """Tell whether a precondition is left to the other gates where its column is NULL."""
    return any(_NAMED_CONDITIONS[name][0].fullmatch(text) for name in _GUARDS)


def _named_condition(text: str) -> str | None:
    """Return the expression a precondition's name stands for, None if it is no such name.

    >>> _named_condition("trade_count_ge_5"), _named_condition("oi_fresh_20s")
    ('trade_count_m_1 >= 5', 'oi_staleness_ms <= 20000')
    """
    for pattern, expression, factor in _NAMED_CONDITIONS.values():
        match = pattern.fullmatch(text)
        if match is not None:
            return expression.format(int(match.group(1)) * factor)
    return None


def _scores(scope: _RowScope) -> tuple[Expression | None, Expression | None]:
    """Return primary and secondary; left out, they are the first and the second z_* input."""
    z_inputs = _z_inputs(scope.raw)
    texts: list[str | None] = []
    for i, key in enumerate(("primary", "secondary")):
        given = scope.raw.get(key)
        if given is None and i < len(z_inputs):
            spare = z_inputs[i] if z_inputs[i] not in texts else z_inputs[0]
            texts.append(spare if spare in scope.columns else None)  # unknown: reported as input
        else:
            texts.append(str(given) if _is_score(given) else None)
    if scope.raw.get("primary") is None and not z_inputs and "trigger" in scope.raw:
        scope.fault("primary", "nothing, and no z_* column among the inputs", "one of the two")
    primary, secondary = (
        scope.compiled(key, text, ColumnType.NUMBER) if text is not None else None
        for key, text in zip(("primary", "secondary"), texts, strict=True)
    )
    return primary, secondary


def _is_score(given: Any) -> bool:
    return isinstance(given, str | int | float) and not isinstance(given, bool)


def _detector(row: DetectorRow, part: _Compiled, pack: DetectorPack) -> Detector:
    """Return a detector with everything it left out taken from its class."""
    event_class = row.event_class or class_of(row.id)
    defaults = pack.class_defaults[event_class]
    weights = _weights(row, defaults.weights)
    support = part.secondary.names if part.secondary is not None else ()
    names = {name for expression in _deciding(part) for name in expression.names}
    required = tuple(sorted(names.union(part.not_null)))
    guarded = (name for guard in part.guards for name in guard.names)
    named = tuple(dict.fromkeys((*row.inputs, *required, *guarded, *support)))
    return Detector(
        detector_id=row.id,
        event_class=event_class,
        subtype=row.subtype or row.id.partition(".")[2],
        tfs=row.tfs,
        mode=row.mode,
        enabled=row.enabled,
        inputs=row.inputs,
        conditions=part.conditions,
        guards=part.guards,
        trigger=part.trigger,
        primary=part.primary,
        secondary=part.secondary,
        cooldown_s=_given(row.cooldown_sec, defaults.cooldown_sec),
        half_life_s=_given(row.half_life_sec, defaults.half_life_sec),
        w1=weights.w1,
        w2=weights.w2,
        w3=weights.w3,
        a=weights.a,
        b=weights.b,
        publish_threshold=_given(row.publish_threshold, defaults.publish_threshold),
        payload=named if row.payload is None else row.payload,
        needs_frame=not part.frame_columns.isdisjoint(named),
        required=required,
        inferred=row.inferred,
        description=row.description,
        tier_triggers=part.tier_triggers,
    )


def _deciding(part: _Compiled) -> tuple[Expression, ...]:
    """Return the expressions whose operands must not be NULL."""
    return (*part.conditions, part.trigger, part.primary)


def _given(value: float | None, default: float) -> float:
    return default if value is None else value


def _weights(row: DetectorRow, defaults: Weights) -> Weights:
    if row.weights is None:
        return defaults
    return defaults.model_copy(update=row.weights.model_dump(exclude_none=True))


# --- examples --------------------------------------------------------------------------------


_BOTH_KINDS = ((True, "fires"), (False, "is silent"))


def _check_examples(
    scope: _RowScope, part: _Compiled | None, released: bool, warnings: list[str]
) -> None:
    """Run a detector's examples; without one that fires and one that is silent, say so."""
    examples = rows_of(scope.raw, "examples")
    for i, example in examples:
        row = example.get("row")
        before = len(scope.faults)
        for name, value in row.items() if isinstance(row, dict) else ():
            _check_value(scope, f"examples[{i}].row.{name}", name, value)
        if isinstance(row, dict) and part is not None and len(scope.faults) == before:
            _run_example(scope, f"examples[{i}]", example, part)
    present = [example.get("fires") for _, example in examples]
    missing = [words for fires, words in _BOTH_KINDS if fires not in present]
    if missing:
        found = f"no example that {' and none that '.join(missing)}"
        if released:
            scope.fault("examples", found, "at least one of each in a released pack")
        else:
            warnings.append(f"{scope.file}: {scope.where}.examples: {found}")


def _check_value(scope: _RowScope, key: str, name: str, value: Any) -> None:
    if not scope.known(key, name) or value is None:
        return
    kind = scope.columns[name]
    fits = {
        ColumnType.NUMBER: isinstance(value, int | float) and math.isfinite(value),
        ColumnType.BOOLEAN: isinstance(value, bool),
        ColumnType.TEXT: isinstance(value, str),
        ColumnType.OPAQUE: True,
    }
    if not fits[kind] or (kind is ColumnType.NUMBER and isinstance(value, bool)):
        scope.fault(key, _shown(value), f"a {kind.value} or null")


def _run_example(scope: _RowScope, key: str, example: Mapping[str, Any], part: _Compiled) -> None:
    """Note a fault if the detector does not do what the example says."""
    row, fires = example["row"], example.get("fires")
    reason = _why_silent(row, scope, part)
    if fires is True and reason is not None:
        scope.fault(key, f"silent: {reason}", f"it fires ({example.get('why')})")
    if fires is False and reason is None:
        scope.fault(key, "it fires", f"silent ({example.get('why')})")


def _why_silent(row: Mapping[str, Any], scope: _RowScope, part: _Compiled) -> str | None:
    """Return what keeps a detector from firing on an example's row, None if it fires."""
    needed = set(part.not_null)
    needed.update(name for expression in _deciding(part) for name in expression.names)
    for name in sorted(needed):
        if name in row and row[name] is None:
            return f"`{name}` is null"
    for name in part.not_null:
        if name not in row:
            return f"`{name}` is not given"
    for guard in part.guards:
        if guard.evaluate(row) is False:
            return f"`{_short(guard.text)}` is false"
    for expression in (*part.conditions, part.trigger):
        held = expression.evaluate(row)
        if held is not True:
            return f"`{_short(expression.text)}` is {'NULL' if held is None else 'false'}"
    return None
