"""PostgreSQL as a sink: rows, frames, audits, events, suppressions and dead letters, each batch in
one transaction.

Rules of this file: a batch is copied into temporary tables and merged, so writing it twice is the
same as once; an older revision never replaces a newer one; a lost server is tried again for some
seconds and is then an outage (spool.py); a month without a partition gets one; a row that the
server cannot take is set aside as a dead letter and the rest of its batch is written; tables that
are missing, or refuse most rows, raise. Design 6, 7; docs/decisions/0013.
"""

from __future__ import annotations

import hashlib
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Generic, TypeVar
from uuid import UUID

import psycopg
from bytewax.outputs import StatefulSinkPartition
from prometheus_client import Counter
from psycopg import sql
from psycopg.types.json import Jsonb

from dataflows.connectors.clock import SystemClock
from dataflows.connectors.migrate import (
    PARTITIONED,
    Connection,
    create_partitions,
    month_of,
    open_session,
    query,
)
from dataflows.connectors.spool import DirectPart, Lost, SpooledPart, Spooling
from dataflows.connectors.topics import OnePartitionSink
from operators.contract import DeadLetter, dead_letter
from operators.feed import Hole
from operators.lattice import day_of
from operators.publish import canonical, dead_json, event_json
from operators.records import (
    BaselineState,
    Change,
    Frame,
    HotMove,
    MarketPhase,
    Published,
    Row,
    Suppression,
)

_clock = SystemClock()

BACKOFF_S = (0.1, 0.3, 0.6, 1.0)  # two seconds in all: a reconnect is no outage
STATEMENT_MS = 10_000  # a server that does not answer, or a lock that is not given, is an outage
# Rows of a table that may be set aside in a batch; if they are also half of it, the table is wrong.
POISON_MAX = 10
POISONED = Counter("alpha_poison_rows", "Rows that PostgreSQL refused", ["table"])

# A standby that was not promoted yet answers, but takes nothing.
_AWAY = (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction)
# What a row can be blamed for; all else is the schema, the rights or the query.
_OF_THE_ROW = (psycopg.DataError, psycopg.IntegrityError)
_OF_THE_TABLE = (psycopg.errors.InvalidBinaryRepresentation, psycopg.errors.BadCopyFileFormat)

Record = dict[str, Any]

FRAME_COLUMNS = {
    "leader": "text",
    "leader_uid": "bigint",
    "dominance_share": "double precision",
    "shock_count_5s": "bigint",
    "approx": "boolean",
    "rs_top": "jsonb",
    "rs_bottom": "jsonb",
    "return_dispersion_m_5": "double precision",
    "vol_dispersion_m_5": "double precision",
    "eligible_count": "bigint",
    "excluded_count": "bigint",
    "universe_size": "bigint",
    "universe_rev": "bigint",
    "time_to_next_funding_sec": "bigint",
    "dq_status": "text",
    "dq_reasons": "text[]",
    "leader_z_vol": "double precision",
    "leader_z_vol_before_1": "double precision",
    "leader_z_vol_before_2": "double precision",
    "followers_rs": "double precision",
    "followers_rs_before_1": "double precision",
    "followers_rs_before_2": "double precision",
    "sector_leader": "text",
    "sector_margin": "double precision",
    "sector_former": "text",
    "sector_former_rank": "bigint",
    "extras_json": "jsonb",
}
_LABEL = {"tf": "text", "exchange_ts": "timestamptz", "revision": "integer"}
_ASSET = {"asset_uid": "bigint", "symbol": "text"}
_EVENT = {
    "event_id": "uuid",
    "emitted_at": "timestamptz",
    "exchange_ts": "timestamptz",
    **_ASSET,
    "tf": "text",
    "class": "text",
    "subtype": "text",
    "severity": "integer",
}
_MEMBERSHIP = {"is_in_universe": "boolean", "is_hot": "boolean", "universe_rev": "bigint"}
_PROVENANCE = {"feature_pack": "text", "detector_pack": "text", "config_hash": "text"}
_PROVENANCE_OPTIONAL = {
    "git_commit": "text",
    "universe_policy_rev": "bigint",
    "source_lag_ms": "bigint",
    "clock_skew_ms": "bigint",
}
_STORED_EVENT = {
    "incident_id": "text",
    "replay_of": "boolean",
    "payload_bytes": "bytea",
    "payload": "jsonb",
}
_AUDITS: Mapping[str, tuple[dict[str, str], tuple[str, ...]]] = {  # columns and key
    "universe_audit": (
        {
            "exchange_ts": "timestamptz",
            "revision": "bigint",
            "added": "bigint[]",
            "removed": "bigint[]",
            "missing_oi": "bigint[]",
            "reasons": "jsonb",
        },
        ("exchange_ts",),
    ),
    "universe_deferral": (
        {"exchange_ts": "timestamptz", "asset_uid": "bigint"},
        ("exchange_ts", "asset_uid"),
    ),
    "hotlist_move": (
        {
            "exchange_ts": "timestamptz",
            "asset_uid": "bigint",
            "started_at": "timestamptz",
            "expires_at": "timestamptz",
            "move": "text",
            "hot_reason": "text",
        },
        ("asset_uid", "exchange_ts", "move"),
    ),
    "hotlist_state": (
        {
            "asset_uid": "bigint",
            "exchange_ts": "timestamptz",
            "hot_started_at": "timestamptz",
            "hot_expires_at": "timestamptz",
            "hot_reason": "text",
        },
        ("asset_uid",),
    ),
    "tier_move": (
        {
            "exchange_ts": "timestamptz",
            "asset_uid": "bigint",
            "former": "text",
            "tier": "text",
        },
        ("asset_uid", "exchange_ts"),
    ),
}
_GAP = {
    "started_at": "timestamptz",
    "ended_at": "timestamptz",
    "feed": "text",
    "cause": "text",
}
_BASELINE = {
    "asset_uid": "bigint",
    "updated_at": "timestamptz",
    "n_samples": "bigint",
    "mu": "double precision",
    "sigma": "double precision",
    "tf": "text",
    "feature_name": "text",
    "feature_pack": "text",
    "quantile_state": "bytea",
}
_DEAD_LETTER = {
    "minute_ts": "timestamptz",
    "asset_uid": "bigint",
    "size_bytes": "bigint",
    "digest": "text",
    "event_id": "text",
    "event_ts": "text",
    "reason": "text",
    "payload": "text",
}


MARKET_TABLES = ("features_snapshot", "market_snapshot", *_AUDITS, "dead_letter")
EVENT_TABLES = ("anomaly_event", "shadow_event", "suppression", "dead_letter")
GAP_TABLES = ("gap",)
BASELINE_TABLES = ("baseline_state",)
_MONTH_BY = {  # column that says in which month partition a record is
    "features_snapshot": "exchange_ts",
    "anomaly_event": "emitted_at",
    "shadow_event": "emitted_at",
    "suppression": "exchange_ts",
    "dead_letter": "minute_ts",
}


class WriteError(Exception):
    """What can never be written; the message names the rows, by their keys, and what is wrong."""


class RowError(WriteError):
    """One row that can never be written; the message names its key, the column and the fault."""


# --- values ------------------------------------------------------------------------------------


def _typed(*kinds: type) -> Callable[[Any], Any]:
    """Return a check that lets values of exactly these types through and converts nothing."""

    def check(value: Any) -> Any:
        if type(value) not in kinds:
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise TypeError(f"expected {expected}, found {type(value).__name__} {value!r}")
        return value

    return check


_integer = _typed(int)
_number = _typed(float, int)
_text = _typed(str)
_sequence = _typed(list, tuple)


def _finite(value: Any) -> Any:
    if not math.isfinite(_number(value)):
        raise ValueError(f"expected a finite number or None, found {value}")
    return value


def _instant(value: Any) -> datetime:
    moment = datetime.fromisoformat(_text(value))
    if moment.tzinfo is None:
        raise ValueError(f"expected a time with its zone, found {value}")
    return moment


def _json(value: Any) -> Jsonb:
    return Jsonb(canonical(value), dumps=_as_it_is)


def _as_it_is(text: bytes) -> bytes:
    return text


# Strict on purpose: the binary protocol would store any object as a boolean.
_CONVERT: Mapping[str, Callable[[Any], Any]] = {
    "bigint": _integer,
    "integer": _integer,
    "double precision": _finite,
    "boolean": _typed(bool),
    "text": _text,
    "text[]": lambda value: [_text(item) for item in _sequence(value)],
    "bigint[]": lambda value: [_integer(item) for item in _sequence(value)],
    "timestamptz": lambda value: value if isinstance(value, datetime) else _instant(value),
    "jsonb": _json,
    "bytea": _typed(bytes),
    "uuid": lambda value: UUID(_text(value)),
}


_AS_IT_IS: Mapping[str, tuple[type, ...]] = {  # values of these types are stored as they are
    "bigint": (int,),
    "integer": (int,),
    "double precision": (float, int),
    "boolean": (bool,),
    "text": (str,),
    "bytea": (bytes,),
}
_NULL = type(None)
PATTERNS_MAX = 1024  # of types, remembered by table; each has a few kB


def _label(exchange_ts_ms: int) -> datetime:
    """Return the exact instant of a label (a float of seconds would round it)."""
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=exchange_ts_ms)


# --- tables ------------------------------------------------------------------------------------


class Table:
    """A table as the writer sees it: columns with SQL types in copy order, its key, its texts.

    merge : name of the text that merges into it, if it is that of another table.
    """

    def __init__(
        self, name: str, types: Mapping[str, str], key: tuple[str, ...], merge: str | None = None
    ) -> None:
        self.name = name
        self.types = types
        self.key = key
        self._plan = [(column, _CONVERT[kind]) for column, kind in types.items()]
        self._quick: dict[tuple[type, ...], _Quick | None] = {}
        values = [column for column in types if column not in key]
        names = {
            "staging": sql.Identifier(f"stg_{name}"),
            "table": sql.Identifier(name),
            "columns": _list(sql.Identifier(column) for column in types),
            "values": _list(sql.Identifier(column) for column in values),
            "excluded": _list(sql.Identifier("excluded", column) for column in values),
        }
        self.staging = query("create_staging").format(**names)
        self.copy = query("copy_lines").format(target=names["staging"], **names)
        self.insert = query("copy_lines").format(target=names["table"], **names)
        self.merge = query(f"merge_{merge or name}").format(**names)

    def name_of(self, record: Record) -> str:
        """Return the key of a record, for messages."""
        key = ", ".join(f"{name}={_plain(record.get(name))}" for name in self.key)
        return f"{self.name} ({key})"

    def line(self, record: Record) -> list[Any]:
        """Return the record's values in copy order; raise for what would be lost or misread.

        RowError for a value that its column cannot hold, WriteError for a column there is not.
        """
        line = self._quick_line(record)
        if line is not None:
            return line
        unknown = record.keys() - self.types.keys()
        if unknown:
            raise WriteError(f"{self.name_of(record)}: no column for {sorted(unknown)}")
        line = []
        for name, convert in self._plan:
            value = record.get(name)
            try:
                line.append(None if value is None else convert(value))
            except (TypeError, ValueError, AssertionError, OverflowError) as error:
                raise RowError(f"{self.name_of(record)}: {name}: {error}") from error
        return line

    def _quick_line(self, record: Record) -> list[Any] | None:
        """Return the line of a record whose values are of types that were seen to be right.

        None where it has to be looked at one by one. A minute has tens of thousands of values, and
        its rows few patterns of types: what goes in as it is, is checked by its pattern at once.
        """
        if not record.keys() <= self.types.keys():
            return None
        line: list[Any] = list(map(record.get, self.types))
        pattern = tuple(map(type, line))
        if pattern not in self._quick:
            if len(self._quick) >= PATTERNS_MAX:
                self._quick.clear()
            self._quick[pattern] = _quick(pattern, self.types.values())
        quick = self._quick[pattern]
        if quick is None:
            return None
        try:
            # A sum is finite only if all of it is; where it overflows each is looked at.
            if not math.isfinite(sum([line[at] for at in quick.finite])):
                return None
            for at, convert in quick.converted:
                line[at] = convert(line[at])
        except (TypeError, ValueError, AssertionError, OverflowError):
            return None  # said with its name by who asked
        return line


@dataclass(frozen=True)
class _Quick:
    """What is left to do for a pattern of types, by position: what to check, what to convert."""

    finite: tuple[int, ...]
    converted: tuple[tuple[int, Callable[[Any], Any]], ...]


def _quick(pattern: Iterable[type], kinds: Iterable[str]) -> _Quick | None:
    """Return what is left to do for values of these types, None if one is not of its column."""
    finite, converted = [], []
    for at, (found, kind) in enumerate(zip(pattern, kinds, strict=True)):
        if found is _NULL:
            continue
        if kind not in _AS_IT_IS:
            converted.append((at, _CONVERT[kind]))
        elif found not in _AS_IT_IS[kind]:
            return None
        elif kind == "double precision":
            finite.append(at)
    return _Quick(tuple(finite), tuple(converted))


def _list(names: Iterable[sql.Identifier]) -> sql.Composed:
    return sql.SQL(", ").join(names)


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def tables_of(columns: Mapping[str, str]) -> dict[str, Table]:
    """Return the tables by name, given the feature pack's columns and their SQL types."""
    taken = columns.keys() & {*_ASSET, *_LABEL, "extras_json"}
    assert not taken, f"feature columns named like the key: {sorted(taken)}"
    minute = ("tf", "exchange_ts")
    rows = {**_ASSET, **_LABEL, **columns, "extras_json": "jsonb"}
    events = {**_EVENT, **_MEMBERSHIP, **_PROVENANCE, **_PROVENANCE_OPTIONAL, **_STORED_EVENT}
    verdict = {"detector_id": "text", "reason": "text", "severity": "integer", "state": "text"}
    tables = (
        Table("features_snapshot", rows, ("asset_uid", *minute)),
        Table("market_snapshot", {**_LABEL, **FRAME_COLUMNS}, minute),
        Table("anomaly_event", events, ("event_id", "emitted_at")),
        Table("shadow_event", events, ("event_id", "emitted_at"), merge="anomaly_event"),
        Table(
            "suppression",
            {**_ASSET, **_LABEL, **verdict},
            ("asset_uid", *minute, "revision", "detector_id"),
        ),
        *(Table(name, types, key) for name, (types, key) in _AUDITS.items()),
        Table("dead_letter", _DEAD_LETTER, ("minute_ts", "digest")),
        Table("baseline_state", _BASELINE, ("asset_uid", "tf", "feature_name")),
        Table("gap", _GAP, ("feed", "started_at", "cause")),
    )
    return {table.name: table for table in tables}


# --- records -----------------------------------------------------------------------------------


def row_record(row: Row) -> Record:
    """Return what is stored of a row."""
    return {
        "asset_uid": row.asset_uid,
        "symbol": row.symbol,
        "tf": row.tf,
        "exchange_ts": _label(row.exchange_ts_ms),
        "revision": row.revision,
        **row.columns,
        "extras_json": row.extras,
    }


def _frame_record(frame: Frame) -> Record:
    return {
        "tf": frame.tf,
        "exchange_ts": _label(frame.exchange_ts_ms),
        "revision": frame.revision,
        **frame.columns,
        "extras_json": frame.extras,
    }


def _audit_records(phases: Iterable[MarketPhase]) -> dict[str, list[Record]]:
    """Return what changed in the coverage by table; of an asset's hotlist moves the last stands."""
    found: dict[str, list[Record]] = {name: [] for name in _AUDITS}
    for phase in phases:
        audit, at = phase.audit, {"exchange_ts": _label(phase.phase.minute_ms)}
        if audit.change is not None:
            found["universe_audit"].append(_change_record(audit.change))
        found["universe_deferral"] += [{**at, "asset_uid": uid} for uid in audit.deferred]
        for move in audit.hot:
            moved, state = _hot_records(move)
            found["hotlist_move"].append(moved)
            found["hotlist_state"].append(state)
        found["tier_move"] += [
            {**at, "asset_uid": move.asset_uid, "former": move.former, "tier": move.tier}
            for move in audit.tiers
        ]
    return found


def _change_record(change: Change) -> Record:
    return {
        "exchange_ts": _label(change.exchange_ts_ms),
        "revision": change.revision,
        "added": change.added,
        "removed": change.removed,
        "missing_oi": change.missing_oi,
        "reasons": change.reasons,
    }


def _hot_records(move: HotMove) -> tuple[Record, Record]:
    """Return the line of a move, and the entry as it stands after it."""
    started, expires = _label(move.started_ms), _label(move.expires_ms)
    common = {
        "exchange_ts": _label(move.exchange_ts_ms),
        "asset_uid": move.asset_uid,
        "hot_reason": move.reason,
    }
    return (
        {**common, "move": move.move, "started_at": started, "expires_at": expires},
        {**common, "hot_started_at": started, "hot_expires_at": expires},
    )


def _dead_record(dead: DeadLetter, minute_ms: int) -> Record:
    """Return a dead letter; whatever was wrong with it, the text is one that can be stored."""
    return {
        "minute_ts": _label(minute_ms),
        "asset_uid": dead.asset_uid,
        "size_bytes": dead.size_bytes,
        "digest": hashlib.sha256(dead_json(dead)).hexdigest(),
        "event_id": _storable(dead.event_id),
        "event_ts": _storable(dead.exchange_ts),
        "reason": _storable(dead.reason),
        "payload": _storable(dead.payload),
    }


def _storable(text: str | None) -> str | None:
    """Replace the one character that PostgreSQL's text cannot hold."""
    return None if text is None else text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _suppression_record(suppressed: Suppression) -> Record:
    return {
        "asset_uid": suppressed.asset_uid,
        "symbol": suppressed.symbol,
        "tf": suppressed.tf,
        "exchange_ts": _label(suppressed.exchange_ts_ms),
        "revision": suppressed.revision,
        "detector_id": suppressed.detector_id,
        "reason": suppressed.reason,
        "severity": suppressed.severity,
        "state": suppressed.state,
    }


def _event_record(payload: dict[str, Any], replay_of: bool) -> Record:
    """Echo the parts of the payload that have columns, beside its exact bytes."""
    try:
        membership, provenance = payload["membership"], payload["provenance"]
        return {
            **{name: payload[name] for name in _EVENT},
            **{name: membership[name] for name in _MEMBERSHIP},
            **{name: provenance[name] for name in _PROVENANCE},
            **{name: provenance.get(name) for name in _PROVENANCE_OPTIONAL},
            "incident_id": payload.get("incident_id"),
            "replay_of": replay_of,
            "payload_bytes": event_json(payload),
            "payload": payload,
        }
    except KeyError as error:
        raise RowError(f"event {payload.get('event_id')}: payload has no {error}") from error
    except (AssertionError, TypeError) as error:
        raise RowError(f"event {payload.get('event_id')}: {error}") from error


def _newest(table: Table, records: Iterable[Record]) -> list[Record]:
    """Keep one record a key, as a merge needs: the highest revision, of equals the last."""
    newest: dict[tuple[Any, ...], Record] = {}
    for record in records:
        key = tuple(record[name] for name in table.key)
        if key not in newest or newest[key].get("revision", 0) <= record.get("revision", 0):
            newest[key] = record
    return list(newest.values())


# --- the writer --------------------------------------------------------------------------------


@dataclass
class _Load:
    """What a batch holds for one table, ready to be copied; rows that are refused leave it."""

    table: Table
    records: list[Record]
    lines: list[list[Any]]

    @property
    def is_new(self) -> bool:
        """Tell whether these are feature rows that are, restarts apart, written first here.

        They are most of all that is written, and need no merge unless one of them is there.
        """
        if self.table.name != "features_snapshot":
            return False
        return not any(record["revision"] for record in self.records)

    def part(self, start: int, end: int) -> _Load:
        """Return some of the rows."""
        return _Load(self.table, self.records[start:end], self.lines[start:end])


class _Refused(Exception):
    """The server does not take a load; index : the row, None if it is not known which."""

    def __init__(self, load: _Load, index: int | None, error: Exception) -> None:
        super().__init__(_first_line(error))
        self.load = load
        self.index = index
        self.error = error

    def reason(self, index: int) -> str:
        """Return what is wrong with a row, with its key and, where it is known, the column."""
        diagnosis = getattr(self.error, "diag", None)
        named = re.search(r"column (\w+)", getattr(diagnosis, "context", None) or "")
        column = named.group(1) if named else getattr(diagnosis, "column_name", None)
        where = f"{column}: " if column else ""
        return f"{self.load.table.name_of(self.load.records[index])}: {where}{self}"


class PostgresWriter:
    """Writes batches into the tables of a schema over one connection, which it keeps alive.

    columns : the feature pack's columns with their SQL types. replay_of : events are those of a
    replay. backoff_s : pauses between tries to reach a server that was lost. say : is told, in one
    line, of a lost server and of a row that was set aside. only : the tables it writes, so that its
    user needs no right to others; None: all of them.
    daily : is called with the label, epoch ms, after the first minute and then the first of a day.

    A row that cannot be written goes to `dead_letter` in the transaction of its batch, and is
    counted; a writer without that table raises `WriteError`.
    """

    def __init__(
        self,
        dsn: str,
        columns: Mapping[str, str],
        *,
        schema: str = "public",
        replay_of: bool = False,
        backoff_s: Sequence[float] = BACKOFF_S,
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
        only: Sequence[str] | None = None,
        daily: Callable[[int], None] | None = None,
    ) -> None:
        self._dsn = dsn
        self._schema = schema
        self._replay_of = replay_of
        self._backoff_s = tuple(backoff_s)
        self._say = say
        tables = tables_of(columns)
        self._tables = {name: tables[name] for name in (tables if only is None else only)}
        self._connection: Connection | None = None
        self._daily = daily
        self._day = -1

    def connect(self, *, patient: bool = True) -> None:
        """Open the connection now rather than with the first batch.

        patient : wait for a lost server, here and below; else psycopg.OperationalError at once.
        """
        self._insist(lambda connection: None, patient)

    def write_market(self, phases: Iterable[MarketPhase], *, patient: bool = True) -> None:
        """Upsert the rows, frames and audits of some phases, in one transaction."""
        phases = list(phases)
        rows = [row_record(row) for phase in phases for row in phase.rows]
        frames = [_frame_record(frame) for phase in phases for frame in phase.frames]
        audits = _audit_records(phases)
        self._write({"features_snapshot": rows, "market_snapshot": frames, **audits}, patient)
        if self._daily is not None and phases:
            label_ms = max(phase.phase.minute_ms for phase in phases)
            if day_of(label_ms) > self._day:
                self._day = day_of(label_ms)
                self._daily(label_ms)

    def write_published(self, published: Iterable[Published], *, patient: bool = True) -> None:
        """Insert events, shadow events, suppressions and dead letters of some phases, in one
        transaction."""
        published = list(published)
        dead = [_dead_record(d, item.phase.minute_ms) for item in published for d in item.dead]
        batch = {
            "anomaly_event": self._events(((i, i.events) for i in published), dead),
            "shadow_event": self._events(((i, i.shadow) for i in published), dead),
            "suppression": [_suppression_record(s) for i in published for s in i.suppressed],
            "dead_letter": dead,
        }
        self._write(batch, patient)

    def _events(
        self, given: Iterable[tuple[Published, Sequence[Record]]], dead: list[Record]
    ) -> list[Record]:
        """Return what is stored of events; those without are added to the dead letters."""
        found = []
        for item, events in given:
            for event in events:
                try:
                    found.append(_event_record(event, self._replay_of))
                except RowError as error:
                    letter = dead_letter(event, str(error))
                    dead.append(self._aside("anomaly_event", letter, item.phase.minute_ms))
        return found

    def write_gaps(self, feed: str, holes: Iterable[Hole], *, patient: bool = True) -> None:
        """Upsert holes of a recording, in one transaction; the one before its first line is none.

        feed : name of the recording.
        """
        gaps = [
            {
                "feed": feed,
                "started_at": _label(hole.start_ms),
                "ended_at": None if hole.end_ms is None else _label(hole.end_ms),
                "cause": hole.cause,
            }
            for hole in holes
            if hole.start_ms
        ]
        self._write({"gap": gaps}, patient)

    def write_baselines(self, states: Iterable[BaselineState], *, patient: bool = True) -> None:
        """Upsert baselines in one transaction; an older one never replaces a newer one."""
        records = [
            {
                "asset_uid": state.asset_uid,
                "updated_at": _label(state.updated_ms),
                "n_samples": state.n,
                "mu": state.mu,
                "sigma": state.sigma,
                "tf": state.tf,
                "feature_name": state.column,
                "feature_pack": state.feature_pack,
                "quantile_state": state.content,
            }
            for state in sorted(states, key=lambda state: state.updated_ms)
        ]
        self._write({"baseline_state": records}, patient)

    def close(self) -> None:
        """Close the connection; the next batch opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _write(self, batch: Mapping[str, list[Record]], patient: bool) -> None:
        loads = []
        dead = list(batch.get("dead_letter", []))
        for name, records in batch.items():
            if name != "dead_letter" and records:
                loads.append(self._load(self._tables[name], records, dead))
        if dead or any(load.records for load in loads):
            self._insist(lambda connection: self._write_loads(connection, loads, dead), patient)

    def _load(self, table: Table, records: list[Record], dead: list[Record]) -> _Load:
        """Convert records, one a key; those that cannot be are added to the dead letters."""
        lines, fit, refused = {}, [], 0
        for record in records:
            try:
                lines[id(record)] = table.line(record)
                fit.append(record)
            except RowError as error:
                refused += 1
                _assert_single(refused, len(records), str(error))
                dead.append(self._dead_row(table, record, str(error)))
        kept = _newest(table, fit)
        return _Load(table, kept, [lines[id(record)] for record in kept])

    def _insist(self, action: Callable[[Connection], None], patient: bool) -> None:
        """Do something on a live connection; when the server is lost, wait and do it again."""
        for pause_s in self._backoff_s if patient else ():
            try:
                action(self._live_connection())
                return
            except _AWAY as error:
                self.close()
                self._say(f"PostgreSQL: {_first_line(error)}; again in {pause_s} s")
                _clock.sleep(pause_s)
        try:
            action(self._live_connection())
        except _AWAY:
            self.close()
            raise

    def _live_connection(self) -> Connection:
        if self._connection is None:
            connection = open_session(self._dsn, self._schema)
            try:
                connection.execute(query("limit_wait"), {"ms": STATEMENT_MS})
                for name in self._tables:
                    connection.execute(query("assert_relation"), {"name": name})
            except BaseException as error:
                connection.close()
                if isinstance(error, psycopg.errors.UndefinedTable):
                    why = f"schema {self._schema}: {_first_line(error)}"
                    raise WriteError(f"{why}; apply the migrations first") from error
                raise
            self._connection = connection
        return self._connection

    def _write_loads(self, connection: Connection, loads: list[_Load], dead: list[Record]) -> None:
        """Write loads in one transaction, with the dead letters of the rows that are refused."""
        loads = list(loads)
        sizes = {load.table.name: len(load.records) for load in loads}
        dead = list(dead)
        made: set[tuple[str, Any]] = set()
        while True:
            letters = self._letters(dead)
            try:
                _transfer(connection, [*loads, letters])
                return
            except _Refused as refused:
                load = refused.load
                missing = _months(load) - made
                if isinstance(refused.error, psycopg.errors.CheckViolation) and missing:
                    # A month without a partition; another writer may have made it by now.
                    create_partitions(connection, self._schema, missing)
                    made |= missing
                    continue
                if load is letters:
                    raise WriteError(f"{_span(load)}: {refused}") from refused.error
                index, reason = _blamed(connection, refused)
                table, record = load.table, load.records[index]
                size = sizes[table.name]
                _assert_single(size - len(load.records) + 1, size, reason)
                dead.append(self._dead_row(table, record, reason))
                rest = _Load(
                    table,
                    load.records[:index] + load.records[index + 1 :],
                    load.lines[:index] + load.lines[index + 1 :],
                )
                loads[loads.index(load)] = rest

    def _letters(self, dead: list[Record]) -> _Load:
        table = self._tables.get("dead_letter")
        if table is None:
            assert not dead, "a writer without dead letters had some"
            return _Load(Table("dead_letter", _DEAD_LETTER, ("minute_ts", "digest")), [], [])
        kept = _newest(table, dead)
        return _Load(table, kept, [table.line(record) for record in kept])

    def _dead_row(self, table: Table, record: Record, reason: str) -> Record:
        """Return the dead letter of a record that cannot be written; raise if there is no place."""
        if "dead_letter" not in self._tables:
            raise WriteError(reason)
        label = record.get("exchange_ts") or record.get("emitted_at")
        try:
            at = label if isinstance(label, datetime) else _instant(label)
        except (TypeError, ValueError):
            at = _label(0)  # a time nobody can read is in the reason
        minute_ms = (at - _label(0)) // timedelta(milliseconds=1)
        payload = record.get("payload") or {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in record.items()
        }
        return self._aside(table.name, dead_letter(payload, reason), minute_ms)

    def _aside(self, table: str, letter: DeadLetter, minute_ms: int) -> Record:
        POISONED.labels(table).inc()
        self._say(f"PostgreSQL: set aside as a dead letter: {letter.reason}")
        return _dead_record(letter, minute_ms)


def _assert_single(refused: int, size: int, reason: str) -> None:
    """Raise if so many rows of a table are refused that the fault cannot be theirs."""
    if refused > POISON_MAX and 2 * refused > size:
        raise WriteError(
            f"{refused} of {size} rows are refused; is the schema of this version?"
            f" The last: {reason}"
        )


def _blamed(connection: Connection, refused: _Refused) -> tuple[int, str]:
    """Return which row of a load is refused and why; where it is not told, by halving."""
    if refused.index is not None:
        return refused.index, refused.reason(refused.index)
    load = refused.load
    start, end, found = 0, len(load.records), refused
    while end - start > 1:
        middle = (start + end) // 2
        for half in ((start, middle), (middle, end)):
            try:
                _transfer(connection, [load.part(*half)], keep=False)
            except _Refused as again:
                (start, end), found = half, again
                break
        else:
            raise WriteError(f"{_span(load)}: {refused}") from refused.error
    return start, found.reason(0)  # alone in its load by now


def _transfer(connection: Connection, loads: list[_Load], *, keep: bool = True) -> None:
    """Copy and merge every load in one transaction; keep : commit it."""
    with connection.transaction(force_rollback=not keep), connection.cursor() as cursor:
        for load in loads:
            if not load.records:
                continue
            if load.is_new and _inserted(connection, cursor, load):
                continue
            # Made with the first use: a commit empties every one there is, used or not.
            cursor.execute(load.table.staging)
            _copy(cursor, load, load.table.copy)
            try:
                cursor.execute(load.table.merge, prepare=True)
            except _AWAY:
                raise
            except _OF_THE_ROW as error:
                raise _Refused(load, None, error) from error
            except psycopg.Error as error:
                raise WriteError(f"{_span(load)}: {_first_line(error)}") from error


def _inserted(connection: Connection, cursor: psycopg.Cursor[tuple[Any, ...]], load: _Load) -> bool:
    """Copy a load straight into its table; False, and nothing of it, if a row is there already."""
    try:
        with connection.transaction():
            _copy(cursor, load, load.table.insert)
    except psycopg.errors.UniqueViolation:
        return False
    return True


def _copy(cursor: psycopg.Cursor[tuple[Any, ...]], load: _Load, text: sql.Composed) -> None:
    index = 0
    try:
        with cursor.copy(text) as copy:
            copy.set_types(list(load.table.types.values()))
            for index, line in enumerate(load.lines):  # noqa: B007
                copy.write_row(line)
    except (*_AWAY, psycopg.errors.UniqueViolation):
        raise
    except _OF_THE_TABLE as error:
        raise WriteError(f"{_span(load)}: {_first_line(error)}") from error
    except _OF_THE_ROW as error:
        # The server may complain later than it is told, but it counts the lines.
        counted = re.search(r", line (\d+)", getattr(error.diag, "context", None) or "")
        raise _Refused(load, int(counted.group(1)) - 1 if counted else index, error) from error
    except psycopg.Error as error:
        raise WriteError(f"{_span(load)}: {_first_line(error)}") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise _Refused(load, index, error) from error


def _months(load: _Load) -> set[tuple[str, Any]]:
    """Return table and month of the partitions a load needs."""
    name = load.table.name
    if name not in _MONTH_BY:
        return set()
    instant = list(load.table.types).index(_MONTH_BY[name])
    months = set()
    for record, line in zip(load.records, load.lines, strict=True):
        parent = f"{name}_{record['tf']}" if name == "features_snapshot" else name
        if parent in PARTITIONED:
            months.add((parent, month_of(int(line[instant].timestamp()) * 1000)))
    return months


def _span(load: _Load) -> str:
    """Name the first and last row of a load, where the server does not tell which it was."""
    name = load.table.name_of
    return f"{name(load.records[0])} to {name(load.records[-1])}"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


# --- the engine's side -------------------------------------------------------------------------

_Item = TypeVar("_Item")


class PostgresOutlet(Generic[_Item]):
    """A database as the spool sees it: opened when it is first needed, and after each loss."""

    def __init__(self, open_writer: Callable[[], PostgresWriter], write: _Write[_Item]) -> None:
        self._open_writer = open_writer
        self._write = write
        self._writer: PostgresWriter | None = None

    def reach(self, *, patient: bool) -> None:
        """Open the database and connect."""
        with self._losing():
            if self._writer is None:
                self._writer = self._opened(BACKOFF_S if patient else ())
            self._writer.connect(patient=patient)

    def write(self, items: Sequence[_Item], *, patient: bool, again: bool) -> None:
        """Write a batch in one transaction."""
        assert self._writer is not None, "not reached"
        with self._losing():
            self._write(self._writer, items, patient)

    def state(self) -> None:
        """Nothing to keep: what was written is committed, and writing it again is harmless."""

    def close(self) -> None:
        """Close the connection."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _opened(self, pauses_s: Sequence[float]) -> PostgresWriter:
        """Return a writer; the server may be asked for more than a connection on the way."""
        for pause_s in pauses_s:
            try:
                return self._open_writer()
            except _AWAY:
                _clock.sleep(pause_s)
        return self._open_writer()

    @contextmanager
    def _losing(self) -> Iterator[None]:
        try:
            yield
        except _AWAY as error:
            self.close()
            raise Lost(f"PostgreSQL: {_first_line(error)}") from error


_Write = Callable[[PostgresWriter, Sequence[_Item], bool], None]


class PostgresSink(OnePartitionSink[_Item, None]):
    """Stores items in a database; what they are, a class of each kind says.

    name : of the sink, and of its spool. kind : type of the items, as the spool reads it.
    open_writer : makes its writer. spooling : where items wait while the server is away; without
    it the run then ends.
    """

    name: ClassVar[str]
    kind: ClassVar[Any]

    def __init__(
        self, open_writer: Callable[[], PostgresWriter], spooling: Spooling | None = None
    ) -> None:
        self._open_writer = open_writer
        self._spooling = spooling

    def build_part(
        self, step_id: str, for_part: str, resume_state: None
    ) -> StatefulSinkPartition[_Item, None]:
        outlet = PostgresOutlet(self._open_writer, self.write)
        return postgres_part(outlet, self.name, self.kind, self._spooling)

    @staticmethod
    def write(writer: PostgresWriter, items: Sequence[Any], patient: bool) -> None:
        """Write items in one transaction."""
        raise NotImplementedError


class PostgresMarketSink(PostgresSink[MarketPhase]):
    """Stores rows, frames and audits; items are ("0", MarketPhase)."""

    name = "postgres-market"
    kind = MarketPhase

    @staticmethod
    def write(writer: PostgresWriter, items: Sequence[MarketPhase], patient: bool) -> None:
        """Write the rows, frames and audits of some phases."""
        writer.write_market(items, patient=patient)


class PostgresEventSink(PostgresSink[Published]):
    """Stores events, suppressions and dead letters; items are ("0", Published)."""

    name = "postgres-events"
    kind = Published

    @staticmethod
    def write(writer: PostgresWriter, items: Sequence[Published], patient: bool) -> None:
        """Write what was published of some phases."""
        writer.write_published(items, patient=patient)


class PostgresHoleLog:
    """Stores the holes of a recording; the writer is made when there is one."""

    def __init__(
        self,
        open_writer: Callable[[], PostgresWriter],
        feed: str,
        spooling: Spooling | None = None,
    ) -> None:
        def write(writer: PostgresWriter, items: Sequence[Hole], patient: bool) -> None:
            writer.write_gaps(feed, items, patient=patient)

        self._outlet = PostgresOutlet(open_writer, write)
        self._spooling = spooling
        self._part: StatefulSinkPartition[Hole, None] | None = None

    def write(self, holes: list[Hole]) -> None:
        """Store holes that began or ended."""
        if self._part is None:
            self._part = postgres_part(self._outlet, "postgres-gaps", Hole, self._spooling)
        self._part.write_batch(holes)

    def close(self) -> None:
        """Close the connection."""
        if self._part is not None:
            self._part.close()


def postgres_part(
    outlet: PostgresOutlet[_Item], sink: str, kind: Any, spooling: Spooling | None
) -> StatefulSinkPartition[_Item, None]:
    """Return the engine's side of an outlet; kind : type of the items, as msgspec reads it."""
    if spooling is None:
        return DirectPart(outlet)
    return SpooledPart(outlet, spooling.spool(sink, kind), spooling)
