"""The checked-in documents are those of the types, and a consumer with only them is as strict."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
import yaml
from jsonschema import Draft202012Validator

from dataflows.contract import (
    ASYNCAPI_FILE,
    DLQ_TOPIC,
    DOCUMENTS,
    SCHEMA_FILE,
    TOPICS,
    documents,
    pinned_example,
)
from operators.contract import ARRAY_MAX, FEATURES_MAX, dead_letter, fault_of, parse
from operators.publish import dead_json

ROOT = Path(__file__).parents[2]

Json = dict[str, Any]
Steps = tuple[str | int, ...]


@pytest.mark.parametrize("name", [SCHEMA_FILE, ASYNCAPI_FILE])
def test_the_documents_are_current(name: str) -> None:
    """After a change of the types or of the pinned events: python -m dataflows.contract --write."""
    assert (DOCUMENTS / name).read_text() == documents(pinned_example())[name]


def test_printing_shows_both_documents() -> None:
    """Without --write nothing is written."""
    command = [sys.executable, "-m", "dataflows.contract"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout == "".join(documents(pinned_example()).values())
    wrong = subprocess.run([*command, "--wrong"], cwd=ROOT, capture_output=True, text=True)
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr.startswith("usage: ")


# --- the schema ----------------------------------------------------------------------------------


def test_golden_events_and_the_example_are_valid(
    pinned: list[Json], full: Json, schema: Json, validator: Draft202012Validator
) -> None:
    """The schema takes all that is published, and shows one of them."""
    for payload in [*pinned, full, *schema["examples"]]:
        validator.validate(payload)


def test_every_field_says_what_it_is(schema: Json) -> None:
    """No field without a description, its own or that of the object it is."""
    for owner in [schema, *schema["$defs"].values()]:
        for name, node in owner["properties"].items():
            text = node.get("description") or resolved(node, schema).get("description")
            assert text, f"{owner['title']}.{name}"
            assert "\n" not in text


def resolved(node: Json, schema: Json) -> Json:
    """Return the object or plain node behind a reference and behind `or null`."""
    if "anyOf" in node:
        (node,) = (option for option in node["anyOf"] if option != {"type": "null"})
    return schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node


def bounds(
    schema: Json, node: Json, value: Any, at: Steps = ()
) -> Iterator[tuple[str, Steps, Any]]:
    """Yield every bound of the schema with the place and a value that breaks it alone.

    value : a sound value of the node; `...` stands for "take the field away".
    """
    plain = resolved(node, schema)
    if "type" in plain or "enum" in plain:
        yield "type", at, [] if isinstance(value, dict | str) else "a word"
    if "anyOf" not in node and at:
        yield "null", at, None
    if "enum" in plain:
        yield "enum", at, "nothing"
    if "pattern" in plain:
        yield "pattern", at, f"{value}\t!"
    if "minimum" in plain:
        yield "minimum", at, plain["minimum"] - 1
    if "maximum" in plain:
        yield "maximum", at, plain["maximum"] + 1
    if "minLength" in plain:
        yield "minLength", at, ""
    if "maxLength" in plain:
        yield "maxLength", at, value + "0" * (plain["maxLength"] + 1 - len(value))
    if "maxItems" in plain:
        yield "maxItems", at, [value[0]] * (plain["maxItems"] + 1)
    if "items" in plain:
        yield from bounds(schema, plain["items"], value[0], (*at, 0))
    if "maxProperties" in plain:
        (sound, *_) = value.values()
        yield "maxProperties", at, {f"c{n}": sound for n in range(plain["maxProperties"] + 1)}
    if "propertyNames" in plain:
        yield "propertyNames", at, {"No Name": next(iter(value.values()))}
    if "additionalProperties" in plain:
        key, sound = next(iter(value.items()))
        yield from bounds(schema, plain["additionalProperties"], sound, (*at, key))
    for name in plain.get("required", ()):
        yield "required", (*at, name), ...
    for name, inner in plain.get("properties", {}).items():
        yield from bounds(schema, inner, value[name], (*at, name))


def broken(payload: Json, steps: Steps, value: Any) -> Json:
    """Return a copy of the event with one value replaced or taken away."""
    result = copy.deepcopy(payload)
    place: Any = result
    for step in steps[:-1]:
        place = place[step]
    if value is ...:
        del place[steps[-1]]
    else:
        place[steps[-1]] = value
    return result


def test_each_bound_broken_once_is_refused_by_schema_model_and_writer(
    full: Json, schema: Json, validator: Draft202012Validator
) -> None:
    """The three never disagree; the list of bounds is that of the schema itself."""
    found = list(bounds(schema, schema, full))[1:]  # the first is the event as a whole
    kinds = {kind for kind, _, _ in found}
    assert len(found) > 150
    assert kinds >= {"type", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength"}
    assert kinds >= {"maxItems", "maxProperties", "propertyNames", "required", "null"}
    for kind, steps, value in found:
        payload = broken(full, steps, value)
        name = f"{kind} at {steps}"
        assert not validator.is_valid(payload), name
        fault = fault_of(payload)
        assert fault is not None, name
        dotted = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in steps)[1:]
        assert fault.startswith(dotted), name
        with pytest.raises(ValueError):
            parse(orjson.dumps(payload))


def test_limits_of_the_plan_are_those_of_the_schema(schema: Json) -> None:
    """Build plan 11.2: severity 0 to 100, arrays of at most 16."""
    severity = schema["properties"]["severity"]
    assert (severity["minimum"], severity["maximum"]) == (0, 100)
    assert severity["type"] == "integer"
    text = json.dumps(schema)
    assert text.count('"type": "array"') == text.count(f'"maxItems": {ARRAY_MAX}') == 4
    assert text.count(f'"maxProperties": {FEATURES_MAX}') == 2


def test_the_schema_stands_alone_and_is_plain(schema: Json) -> None:
    """No reference leads out of it, and no pattern needs Python."""
    text = json.dumps(schema)
    assert r"\\Z" not in text
    assert "(?" not in text
    references = [part.split('"')[0] for part in text.split('"$ref": "')[1:]]
    assert {f"#/$defs/{name}" for name in schema["$defs"]} == set(references)


# --- the topics ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asyncapi() -> Json:
    """Return the AsyncAPI document as checked in."""
    found: Json = yaml.safe_load((DOCUMENTS / ASYNCAPI_FILE).read_text())
    return found


def behind(document: Json, reference: str) -> Json:
    """Return what a local reference names."""
    place: Any = document
    for name in reference.removeprefix("#/").split("/"):
        place = place[name]
    found: Json = place
    return found


def test_every_topic_has_a_channel_and_its_message(asyncapi: Json) -> None:
    """Names of build plan 11.3, 11.5; references lead somewhere."""
    addresses = {channel["address"] for channel in asyncapi["channels"].values()}
    assert addresses == {
        *("alpha.events.v0", "alpha.events.shadow.v0", "alpha.events.replay.v0"),
        "alpha.events.dlq",
    }
    assert {address for address, _ in TOPICS.values()} | {DLQ_TOPIC} == addresses
    for operation in asyncapi["operations"].values():
        assert operation["action"] == "send"
        channel = behind(asyncapi, operation["channel"]["$ref"])
        for reference in channel["messages"].values():
            assert behind(asyncapi, reference["$ref"])["payload"]
    events = asyncapi["components"]["messages"]["event"]
    assert (DOCUMENTS / events["payload"]["$ref"]).is_file()


def test_headers_are_those_of_cloudevents_in_binary_mode(asyncapi: Json) -> None:
    """The four that are required, with the version of the schema in the type."""
    headers = asyncapi["components"]["messages"]["event"]["headers"]
    assert headers["required"] == ["ce_specversion", "ce_id", "ce_type", "ce_source"]
    Draft202012Validator(headers).validate(
        {
            "ce_specversion": "1.0",
            "ce_id": pinned_example()["event_id"],
            "ce_type": "alpha.event.v0.1",
            "ce_source": pinned_example()["provenance"]["producer"],
        }
    )


def test_a_dead_letter_is_what_its_schema_says(asyncapi: Json, full: Json) -> None:
    """With and without what it could take from the event."""
    schema = asyncapi["components"]["messages"]["deadLetter"]["payload"]
    Draft202012Validator.check_schema(schema)
    for payload in ({}, full, {**full, "event_id": 7}):
        written = msgspec.json.decode(dead_json(dead_letter(payload, "why")))
        Draft202012Validator({**schema, "additionalProperties": False}).validate(written)


def test_the_page_names_what_a_consumer_needs() -> None:
    """Files, topics, and the size limit, as they are."""
    page = (DOCUMENTS / "README.md").read_text()
    for name in (
        SCHEMA_FILE,
        ASYNCAPI_FILE,
        DLQ_TOPIC,
        *(address for address, _ in TOPICS.values()),
    ):
        assert f"`{name}`" in page
    assert "16,384 bytes" in page
    assert "python -m dataflows.contract --write" in page
