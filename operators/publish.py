"""The canonical text of everything that leaves the flow: one serialiser, one byte form.

Rules of this file: keys are sorted, there is no white space, UTF-8, timestamps are ISO text in UTC;
numbers are written as they are (they were rounded once upstream); NULL is `null` and a number that
is not finite is a bug. Digests, golden files and the stored bytes of an event are made here and
nowhere else. Design 4, 6 (D24).
"""

from collections.abc import Mapping, Set
from typing import Any

import msgspec
import orjson

from operators import native
from operators.contract import DeadLetter
from operators.lattice import iso
from operators.records import Frame, MarketPhase, Row, Suppression
from operators.scans import is_finite

# What writes nearly all rows (operators/rows.pyx), where that is compiled.
_ROWS = native.compiled("rows")
# By timeframe and number of columns: of the newest row that had other columns, or in another order.
_shapes: dict[tuple[str, int], Any] = {}


def row_json(row: Row) -> bytes:
    """Return a feature row as one flat object; what has no typed column is under `extras`."""
    exchange_ts = iso(row.exchange_ts_ms)
    if _ROWS is not None:
        text: bytes | None = _ROWS.text_of_row(_shapes, row, exchange_ts)
        if text is not None:  # nearly every row
            return text
        kind = (row.tf, len(row.columns))
        if kind not in _shapes or not _shapes[kind].fits(row.columns):
            _shapes[kind] = _ROWS.Shape(row.columns)
    identity = {
        "asset_uid": row.asset_uid,
        "symbol": row.symbol,
        "tf": row.tf,
        "exchange_ts": exchange_ts,
        "revision": row.revision,
        "extras": row.extras,
    }
    return canonical(_joined(identity, row.columns))


def frame_json(frame: Frame) -> bytes:
    """Return a market frame as one flat object; what is on trial is under `extras`."""
    identity = {
        "tf": frame.tf,
        "exchange_ts": iso(frame.exchange_ts_ms),
        "revision": frame.revision,
        "extras": frame.extras,
    }
    return canonical(_joined(identity, frame.columns))


def event_json(payload: dict[str, Any]) -> bytes:
    """Return the bytes of an event as published; `replay_of` is never part of them (D24)."""
    return canonical(payload)


def suppression_json(suppressed: Suppression) -> bytes:
    """Return a suppressed candidate with its reason as one flat object."""
    return canonical(
        {
            "asset_uid": suppressed.asset_uid,
            "symbol": suppressed.symbol,
            "tf": suppressed.tf,
            "exchange_ts": iso(suppressed.exchange_ts_ms),
            "revision": suppressed.revision,
            "detector_id": suppressed.detector_id,
            "reason": suppressed.reason,
            "severity": suppressed.severity,
            "state": suppressed.state,
        }
    )


def audit_json(phase: MarketPhase) -> list[bytes]:
    """Return what changed in a minute's coverage, a line each, by `kind`.

    universe : a revision of the membership with a reason for each asset. deferred : entries and
    exits that the churn cap began to put off. hot : the hotlist. tier : liquidity tiers.
    """
    audit, at = phase.audit, {"exchange_ts": iso(phase.phase.minute_ms)}
    found: list[dict[str, Any]] = []
    if audit.change is not None:
        found.append({"kind": "universe", **_plain(audit.change)})
    if audit.deferred:
        found.append({"kind": "deferred", "asset_uids": list(audit.deferred)})
    found += [{"kind": "hot", **_plain(move)} for move in audit.hot]
    found += [{"kind": "tier", **_plain(move)} for move in audit.tiers]
    return [canonical({**each, **at}) for each in found]


def _plain(record: msgspec.Struct) -> dict[str, Any]:
    """Return a record with its times as text, without the minute that every line has."""
    fields = msgspec.to_builtins(record)
    fields.pop("exchange_ts_ms", None)
    return {
        name.removesuffix("_ms"): iso(value) if name.endswith("_ms") else value
        for name, value in fields.items()
    }


def dead_json(dead: DeadLetter) -> bytes:
    """Return an event that broke the contract, with the reason; its own text is inside as text."""
    return canonical(msgspec.to_builtins(dead))


def canonical(value: dict[str, Any] | list[Any]) -> bytes:
    """Return the one JSON text of a value.

    >>> canonical({"b": 1.5, "a": [True, None]})
    b'{"a":[true,null],"b":1.5}'
    """
    text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    # A number that is not finite has become null, silently: without one there is none.
    assert b"null" not in text or is_finite(value), _first_fault(value, "")
    return text


def _joined(identity: dict[str, Any], columns: Mapping[str, Any]) -> dict[str, Any]:
    assert identity.keys().isdisjoint(columns), _hidden(identity.keys(), columns)
    return {**identity, **columns}


def _hidden(identity: Set[str], columns: Mapping[str, Any]) -> str:
    both = sorted(identity & columns.keys())
    return f"columns that are part of the identity: {both}"


def _first_fault(value: object, path: str) -> str:
    """Say where the first number that is not finite is, e.g. `a.b[1]: expected ..`."""
    if isinstance(value, float):
        return f"{path}: expected a finite number or None, found {value}"
    if isinstance(value, dict):
        items = [(f"{path}.{key}" if path else str(key), item) for key, item in value.items()]
    else:
        assert isinstance(value, list | tuple), value
        items = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    return next(_first_fault(item, where) for where, item in items if not is_finite(item))
