"""Settings of librdkafka from the environment or a file: TLS, SASL, tuning; never shown.

Rules of this file: any value may be a secret, and so may a name, when a comma within a password was
not escaped; messages therefore name entries by number, and by name only once librdkafka knows it.
What keeps events from being lost is not among the settings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from confluent_kafka import KafkaException, Producer

from dataflows.settings import Settings

OPTIONS = "ALPHA_KAFKA_OPTIONS"
_ENTRY = re.compile(r"((?:[^,\\]|\\.)*)(?:,|$)", re.DOTALL)
# What the program relies on: acknowledged, in order, under Java's partitions, never committed.
_OURS = frozenset(
    {
        *("bootstrap.servers", "metadata.broker.list", "acks", "request.required.acks"),
        *("enable.idempotence", "partitioner", "delivery.timeout.ms", "message.timeout.ms"),
        *("transactional.id", "group.id", "enable.auto.commit", "enable.auto.offset.store"),
        *("auto.offset.reset", "enable.partition.eof", "test.mock.num.brokers"),
    }
)
_SECRET = re.compile(r"password|secret|pem|token|jaas|oauthbearer|username|key")
_UNKNOWN = "No such configuration property"
_ALONE = "Failed to create producer"  # another entry may be what it needs


class OptionsError(Exception):
    """The settings cannot be used; the message shows no value."""


def options_of(settings: Settings) -> dict[str, str]:
    """Return the settings of librdkafka that the environment gives, tried out."""
    text = settings.kafka_options
    if text is None:
        return {}
    found = read_lines(OPTIONS, Path(text[1:])) if text.startswith("@") else read_entries(text)
    check_options(OPTIONS, found)
    return found


def read_entries(text: str) -> dict[str, str]:
    r"""Return NAME=VALUE,.. as a dictionary; `\,` is a comma and `\\` a backslash in a value.

    >>> read_entries("security.protocol=sasl_ssl,sasl.password=a\\,b")
    {'security.protocol': 'sasl_ssl', 'sasl.password': 'a,b'}
    """
    entries = [match.group(1).strip() for match in _ENTRY.finditer(text)]
    return _pairs(OPTIONS, [re.sub(r"\\(.)", r"\1", entry) for entry in entries if entry])


def read_lines(what: str, path: Path) -> dict[str, str]:
    """Return NAME=VALUE lines of a file as a dictionary; `what` named it, for messages."""
    return _pairs(f"{what} {path}", lines_of(path))


def lines_of(path: Path) -> list[str]:
    """Return the lines of a file but for empty ones and # comments."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def check_options(what: str, options: Mapping[str, str]) -> None:
    """Raise `OptionsError` if librdkafka does not take them: each on its own, then all of them."""
    for number, (name, value) in enumerate(options.items(), 1):
        if name in _OURS:
            raise OptionsError(f"{what}: entry {number}: {name} is not for you to set: take it out")
        fault = _fault({name: value})
        if fault is None or fault.startswith(_ALONE):
            continue
        if fault.startswith(_UNKNOWN):
            raise OptionsError(
                f"{what}: entry {number} of {len(options)}: librdkafka has no setting of that name;"
                r" a comma within a value is written \,"
            )
        raise OptionsError(
            f"{what}: entry {number} of {len(options)}: librdkafka does not take the value of"
            f" {name}"
        )
    fault = _fault(dict(options))
    if fault is not None:
        raise OptionsError(f"{what}: {_without_secrets(fault, options)}")


def _fault(options: dict[str, str]) -> str | None:
    """Return what librdkafka says against settings."""
    try:
        Producer({"log_level": 0, **options})
    except KafkaException as error:
        return str(error.args[0].str())
    except TypeError:  # a callback of the Python client, which no text can be
        return _UNKNOWN
    return None


def _pairs(what: str, entries: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, entry in enumerate(entries, 1):
        name, equals, value = entry.partition("=")
        if not equals or not name.strip():
            raise OptionsError(f"{what}: expected NAME=VALUE in entry {number} of {len(entries)}")
        if name.strip() in found:
            raise OptionsError(f"{what}: entry {number} has the name of an earlier one")
        found[name.strip()] = value.strip()
    return found


def _without_secrets(text: str, options: Mapping[str, str]) -> str:
    for name, value in options.items():
        if value and _SECRET.search(name):
            text = text.replace(value, "***")
    return text
