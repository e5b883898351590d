"""Old readers read new events, new readers read old events, and fields are only ever added."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import orjson
import pytest
from jsonschema import Draft202012Validator

from dataflows.contract import schema as schema_of
from operators.contract import fault_of, parse
from operators.publish import event_json

BEFORE = Path(__file__).with_name("events_before.ndjson")

Json = dict[str, Any]
# What a schema says for people: it may change.
WORDS = ("title", "description", "examples", "$schema", "$id", "x-unit")


# --- both directions -----------------------------------------------------------------------------


def shared(old: Any, new: Any) -> None:
    """Assert that every field of an old struct has the same value in the new one."""
    for field in msgspec.structs.fields(old):
        value, other = getattr(old, field.name), getattr(new, field.name)
        if isinstance(value, msgspec.Struct):
            shared(value, other)
        else:
            assert value == other, field.name


def test_a_released_reader_reads_events_of_today(
    released: ModuleType, full: Json, pinned: list[Json]
) -> None:
    """It ignores what was added since, and loses nothing else."""
    reader = msgspec.json.Decoder(released.Event)
    assert "attachments" in full.keys() - {f.name for f in msgspec.structs.fields(released.Event)}
    for payload in [full, *pinned]:
        data = event_json(payload)
        shared(reader.decode(data), parse(data))


def test_the_released_schema_takes_events_of_today(
    released_schema: Json, full: Json, pinned: list[Json]
) -> None:
    """Consumers that validate need not change, either."""
    validator = Draft202012Validator(released_schema)
    for payload in [full, *pinned]:
        validator.validate(payload)


def test_today_reads_what_the_released_version_wrote(
    released: ModuleType, validator: Draft202012Validator
) -> None:
    """Bytes of the archive keep the contract, by model, by schema and for a writer."""
    lines = BEFORE.read_bytes().splitlines()
    assert len(lines) == 6
    for line in lines:
        shared(msgspec.json.decode(line, type=released.Event), parse(line))
        payload = orjson.loads(line)
        assert not payload.keys() & {"attachments", "incident_id"}
        assert event_json(payload) == line
        assert fault_of(payload) is None
        validator.validate(payload)


def test_model_and_schema_of_the_release_are_one(
    released: ModuleType, released_schema: Json
) -> None:
    """The two frozen files have not drifted apart."""
    assert schema_of(released.Event) == released_schema


# --- only ever added -----------------------------------------------------------------------------


def inlined(node: Any, root: Json) -> Any:
    """Return a schema without references and without words."""
    if isinstance(node, list):
        return [inlined(item, root) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return inlined(root["$defs"][node["$ref"].rpartition("/")[2]], root)
    kept = {key: item for key, item in node.items() if key not in (*WORDS, "$defs", "properties")}
    found = {key: inlined(item, root) for key, item in kept.items()}
    if "properties" in node:
        found["properties"] = {
            name: inlined(item, root) for name, item in node["properties"].items()
        }
    return found


def breaks(old: Any, new: Any, path: str = "event") -> list[str]:
    """Return what a change of schema breaks: everything but a new optional field and new words.

    A wider bound breaks readers of today's topic, a tighter one readers of the archive.
    """
    if not isinstance(old, dict) or not isinstance(new, dict):
        if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
            pairs = zip(old, new, strict=True)
            return [b for i, (a, c) in enumerate(pairs) for b in breaks(a, c, f"{path}[{i}]")]
        return [] if old == new else [f"{path}: {old!r} became {new!r}"]
    found = []
    for key in sorted(old.keys() | new.keys() - {"properties"}):
        if key == "properties":
            fields, others = old[key], new.get(key, {})
            for name in fields:
                where = f"{path}.{name}"
                found += (
                    breaks(fields[name], others[name], where)
                    if name in others
                    else [f"{where}: removed"]
                )
        elif key == "required":
            given, wanted = sorted(old.get(key, [])), sorted(new.get(key, []))
            found += [] if given == wanted else [f"{path}: required {given} became {wanted}"]
        elif key not in old or key not in new:
            found.append(f"{path}: {key} was {old.get(key)!r}, is {new.get(key)!r}")
        else:
            found += breaks(old[key], new[key], f"{path} {key}")
    return found


def test_fields_are_only_ever_added(released_schema: Json, schema: Json) -> None:
    """Nothing of the release is removed, renamed, tightened, widened or made optional."""
    old = inlined(released_schema, released_schema)
    new = inlined(schema, schema)
    assert breaks(old, new) == []
    assert new["properties"].keys() - old["properties"].keys() == {"attachments", "incident_id"}


def _remove(schema: Json) -> None:
    del schema["$defs"]["DataQuality"]["properties"]["oi_staleness_ms"]


def _rename(schema: Json) -> None:
    schema["properties"]["score"] = schema["properties"].pop("severity")


def _tighten(schema: Json) -> None:
    schema["properties"]["severity"]["maximum"] = 99


def _widen(schema: Json) -> None:
    schema["properties"]["severity"]["maximum"] = 1000


def _bound_anew(schema: Json) -> None:
    schema["$defs"]["DataQuality"]["properties"]["ingest_lag_ms"]["anyOf"][0]["minimum"] = 0


def _unbound(schema: Json) -> None:
    del schema["properties"]["coalesced"]["maxItems"]


def _require(schema: Json) -> None:
    schema["required"].append("incident_id")


def _require_no_more(schema: Json) -> None:
    schema["$defs"]["Provenance"]["required"].remove("config_hash")


def _retype(schema: Json) -> None:
    schema["properties"]["asset_uid"]["type"] = "string"


def _forbid_null(schema: Json) -> None:
    schema["$defs"]["MarketFrame"]["properties"]["leader"]["anyOf"].pop()


def _add_class(schema: Json) -> None:
    schema["properties"]["class"]["enum"].append("panic")


def _drop_timeframe(schema: Json) -> None:
    schema["properties"]["tf"]["enum"].remove("1h")


def _change_pattern(schema: Json) -> None:
    schema["properties"]["exchange_ts"]["pattern"] = "^.*$"


def _close(schema: Json) -> None:
    schema["additionalProperties"] = False


BREAKS = (
    *(_remove, _rename, _tighten, _widen, _bound_anew, _unbound, _require, _require_no_more),
    *(_retype, _forbid_null, _add_class, _drop_timeframe, _change_pattern, _close),
)


@pytest.mark.parametrize("change", BREAKS, ids=lambda change: change.__name__)
def test_a_breaking_change_is_seen(schema: Json, change: Callable[[Json], None]) -> None:
    """Each of them would fail the test above."""
    changed = copy.deepcopy(schema)
    change(changed)
    assert len(breaks(inlined(schema, schema), inlined(changed, changed))) == 1


def test_a_new_optional_field_and_new_words_break_nothing(schema: Json) -> None:
    """At the top and inside; also a definition under another name."""
    changed = copy.deepcopy(schema)
    changed["properties"]["mood"] = {"type": "string", "maxLength": 8}
    changed["$defs"]["Membership"]["properties"]["tier"] = {"enum": ["top", "tail"]}
    changed["properties"]["severity"]["description"] = "other words"
    changed["$defs"]["Quality"] = changed["$defs"].pop("DataQuality")
    changed["$defs"]["LocalState"]["properties"]["dq"] = {"$ref": "#/$defs/Quality"}
    assert breaks(inlined(schema, schema), inlined(changed, changed)) == []
