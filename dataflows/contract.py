"""The documents of the event contract, made from its types.

    python -m dataflows.contract            # print both
    python -m dataflows.contract --write    # write them under docs/contract

The example in them is the first pinned event, so they are written again when that changes.
Build plan 11; the types are in `operators/contract.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import orjson
import yaml

from dataflows.version import PRODUCER
from operators.contract import CONTRACT_VERSION, EVENT_BYTES_MAX, DeadLetter, Event

ROOT = Path(__file__).parents[1]
PINNED = ROOT / "fixtures" / "golden" / "episodes" / "events-v0.2.ndjson"
DOCUMENTS = ROOT / "docs" / "contract"
SCHEMA_FILE = f"event-v{CONTRACT_VERSION}.schema.json"
ASYNCAPI_FILE = "asyncapi.yaml"

TOPICS = {
    "events": (
        "alpha.events.v0",
        "Events as they happen. Kept 7 to 14 days; the archive is the table anomaly_event.",
    ),
    "shadow": (
        "alpha.events.shadow.v0",
        "Events of detectors or runs on trial. Nobody should act on them.",
    ),
    "replay": (
        "alpha.events.replay.v0",
        "Events made again from recordings, with the ids and times they had, and"
        " provenance.replay_of.",
    ),
}
DLQ_TOPIC = "alpha.events.dlq"
# Between the parts of a flow that runs in several processes; no contract, other programs stay away.
TICKS_TOPIC = "alpha.ticks.v0"
ROWS_TOPIC = "alpha.rows.v0"
CLOUD_TYPE = f"alpha.event.v{CONTRACT_VERSION}"
SCHEMA_ID = f"urn:alpha-detector:event:v{CONTRACT_VERSION}"

Json = dict[str, Any]


def schema(kind: type[msgspec.Struct]) -> Json:
    """Return the JSON Schema (2020-12) of a type, complete in itself.

    A number that may be whole is a number; patterns end as ECMA-262 has it.
    """
    raw = msgspec.json.schema(kind)
    definitions = raw.get("$defs", {})
    whole = _portable(definitions.pop(kind.__name__))
    others = {name: _portable(definitions[name]) for name in sorted(definitions)}
    return {**whole, "$defs": others} if others else dict(whole)


def event_schema(example: Json) -> Json:
    """Return the schema of an event, with an example."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        **schema(Event),
        "examples": [example],
    }


def asyncapi(example: Json) -> Json:
    """Return the topics, keys, headers and payloads as an AsyncAPI 3.0 document."""
    channels = {name: _channel(address, text, "event") for name, (address, text) in TOPICS.items()}
    channels["dlq"] = _channel(
        DLQ_TOPIC, "Events that broke the contract, each with the reason.", "deadLetter"
    )
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Alpha detector: events",
            "version": CONTRACT_VERSION,
            "description": (
                "Market events with a severity, delivered at least once. Drop repeats by"
                " event_id, ignore unknown fields; order holds within a key. See README.md."
            ),
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": {
            f"publish{name.capitalize()}": {
                "action": "send",
                "channel": {"$ref": f"#/channels/{name}"},
            }
            for name in channels
        },
        "components": {
            "messages": {
                "event": {
                    "name": "event",
                    "title": "One event",
                    "contentType": "application/json",
                    "headers": _cloud_headers(example),
                    "payload": {"$ref": f"./{SCHEMA_FILE}"},
                    "bindings": _key_binding("asset_uid as decimal text; -1 is the market"),
                    "x-bytes-max": EVENT_BYTES_MAX,
                },
                "deadLetter": {
                    "name": "deadLetter",
                    "title": "An event that broke the contract",
                    "contentType": "application/json",
                    "headers": _dead_headers(),
                    "payload": schema(DeadLetter),
                    "bindings": _key_binding("asset_uid as decimal text, empty if unknown"),
                },
            }
        },
    }


def documents(example: Json) -> dict[str, str]:
    """Return file name -> text of the documents."""
    pretty = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    return {
        SCHEMA_FILE: orjson.dumps(event_schema(example), option=pretty).decode(),
        ASYNCAPI_FILE: yaml.dump(
            asyncapi(example), Dumper=_NoAliases, sort_keys=False, width=100, allow_unicode=True
        ),
    }


def pinned_example() -> Json:
    """Return the first event of the pinned replay."""
    with PINNED.open("rb") as lines:
        example: Json = orjson.loads(lines.readline())
    return example


def main(arguments: list[str]) -> None:
    """Print the documents, or write them with `--write`."""
    if arguments not in ([], ["--write"]):
        sys.exit("usage: python -m dataflows.contract [--write]")
    for name, text in documents(pinned_example()).items():
        if arguments:
            DOCUMENTS.mkdir(parents=True, exist_ok=True)
            (DOCUMENTS / name).write_text(text)
            print(DOCUMENTS / name)
        else:
            print(text, end="")


def _channel(address: str, text: str, message: str) -> Json:
    return {
        "address": address,
        "description": text,
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
    }


def _key_binding(text: str) -> Json:
    return {"kafka": {"key": {"type": "string", "description": text}, "bindingVersion": "0.5.0"}}


def _cloud_headers(example: Json) -> Json:
    """Return the headers of the CloudEvents binary mode over Kafka."""
    headers: dict[str, Json] = {
        "ce_specversion": {"type": "string", "const": "1.0"},
        "ce_id": {
            "type": "string",
            "description": "event_id of the payload",
            "examples": [example["event_id"]],
        },
        "ce_type": {
            "type": "string",
            "const": CLOUD_TYPE,
            "description": "Kind of the message and version of its schema",
        },
        "ce_source": {
            "type": "string",
            "description": "provenance.producer of the payload",
            "examples": [PRODUCER],
        },
    }
    required = list(headers)
    headers |= {
        "ce_dataschema": {
            "type": "string",
            "const": SCHEMA_ID,
            "description": "The $id of the JSON Schema of the payload",
        },
        "ce_replayof": {
            "type": "string",
            "const": "true",
            "description": "On the replay topic only, with provenance.replay_of in the payload",
        },
        "content-type": {"type": "string", "const": "application/json"},
    }
    return {"type": "object", "properties": headers, "required": required}


def _dead_headers() -> Json:
    """Return the headers of a dead letter, which is no CloudEvent."""
    headers: dict[str, Json] = {
        "origin": {"type": "string", "description": "Topic the event was meant for"},
        "content-type": {"type": "string", "const": "application/json"},
    }
    return {"type": "object", "properties": headers, "required": list(headers)}


def _portable(node: Any) -> Any:
    """Return a schema without what only Python understands, and in as few words."""
    if isinstance(node, list):
        return [_portable(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("anyOf") == [{"type": "integer"}, {"type": "number"}]:
        node = {"type": "number", **{key: node[key] for key in node if key != "anyOf"}}
    portable = {key: _portable(item) for key, item in node.items() if key != "default"}
    if isinstance(portable.get("pattern"), str):
        portable["pattern"] = portable["pattern"].replace(r"\Z", "$")
    if isinstance(portable.get("description"), str):
        portable["description"] = " ".join(portable["description"].split())
    return portable


class _NoAliases(yaml.SafeDumper):
    """Writes what stands in two places twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


if __name__ == "__main__":
    main(sys.argv[1:])
