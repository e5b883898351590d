"""The audits of the coverage and the dead letters: stored once, whatever is written again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from psycopg.rows import dict_row

from dataflows.connectors.migrate import open_session
from dataflows.connectors.postgres import PostgresWriter, WriteError
from operators.contract import dead_letter
from operators.publish import audit_json, dead_json
from operators.records import Audit, Change, HotMove, MarketPhase, Phase, Published, TierMove

if TYPE_CHECKING:
    from conftest import Place

pytestmark = pytest.mark.service

T_MS = 1_756_891_800_000
MIN = 60_000


@pytest.fixture
def writer(place: Place, pack_columns: dict[str, str]) -> Iterator[PostgresWriter]:
    """A writer on the test's schema that gives up at once."""
    writer = PostgresWriter(
        place.dsn, pack_columns, schema=place.schema, backoff_s=(), say=lambda line: None
    )
    yield writer
    writer.close()


def at(time_ms: int) -> datetime:
    """An instant as the server returns it."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time_ms)


def phase(audit: Audit, minute_ms: int = T_MS) -> MarketPhase:
    """A sealed phase with an audit alone."""
    return MarketPhase(Phase(minute_ms, False, 0, minute_ms + 1500), (), (), audit)


def published(*payloads: dict[str, Any], minute_ms: int = T_MS) -> Published:
    """A sealed phase whose events all broke the contract."""
    dead = tuple(dead_letter(payload, "v: expected 0.1") for payload in payloads)
    return Published(Phase(minute_ms, False, 1, minute_ms + 1500), (), (), dead)


def stored(place: Place, table: str) -> list[dict[str, Any]]:
    """All rows of a table, by its first two columns."""
    with open_session(place.dsn, place.schema) as connection:
        cursor = connection.cursor(row_factory=dict_row)
        return cursor.execute(f"select * from {table} order by 1, 2".encode()).fetchall()


def hot(move: str, minutes: int, ends: int) -> HotMove:
    """A move of asset 5, both in minutes from T."""
    return HotMove(T_MS + minutes * MIN, 5, move, f"why_{minutes}", T_MS, T_MS + ends * MIN)


FULL = Audit(
    change=Change(3, T_MS, (5, 7), (2,), {"2": "exit", "5": "entry", "7": "entry"}, (7,)),
    hot=(HotMove(T_MS, 9, "added", "vol_spike_m_1", T_MS, T_MS + 36 * MIN),),
    tiers=(TierMove(5, "mid", "top"),),
    deferred=(11, 12),
)


def test_an_audit_is_read_back_as_the_topic_has_it(writer: PostgresWriter, place: Place) -> None:
    """Every field of every line of the audit topic is in a table, under its name."""
    writer.write_market([phase(FULL)])
    (change,) = stored(place, "universe_audit")
    lines = {line["kind"]: line for line in map(orjson.loads, audit_json(phase(FULL)))}
    assert (change["exchange_ts"], change["revision"]) == (at(T_MS), 3)
    for name in ("added", "removed", "missing_oi", "reasons"):
        assert change[name] == lines["universe"][name]
    deferred = [row["asset_uid"] for row in stored(place, "universe_deferral")]
    assert deferred == lines["deferred"]["asset_uids"]
    (tier,) = stored(place, "tier_move")
    assert tier == {"exchange_ts": at(T_MS), "asset_uid": 5, "former": "mid", "tier": "top"}
    (move,) = stored(place, "hotlist_move")
    assert (move["asset_uid"], move["move"], move["hot_reason"]) == (9, "added", "vol_spike_m_1")
    assert (move["started_at"], move["expires_at"]) == (at(T_MS), at(T_MS + 36 * MIN))


def test_an_audit_written_twice_is_there_once(writer: PostgresWriter, place: Place) -> None:
    """After a kill the minute comes again, in a batch of its own or within another."""
    tables = ("universe_audit", "universe_deferral", "hotlist_move", "hotlist_state", "tier_move")
    writer.write_market([phase(FULL)])
    before = {name: stored(place, name) for name in tables}
    writer.write_market([phase(FULL), phase(FULL)])
    assert {name: stored(place, name) for name in tables} == before
    assert all(before.values())


def test_the_hotlist_is_that_of_the_newest_move(writer: PostgresWriter, place: Place) -> None:
    """Prolonged in a later batch; an older minute written again does not take it back."""
    early, late = (
        phase(Audit(hot=(hot("added", 0, 36),))),
        phase(Audit(hot=(hot("prolonged", 3, 40),)), T_MS + 3 * MIN),
    )
    for batch in ([early], [late], [early]):
        writer.write_market(batch)
    (state,) = stored(place, "hotlist_state")
    assert (state["hot_reason"], state["hot_expires_at"]) == ("why_3", at(T_MS + 40 * MIN))
    assert (state["hot_started_at"], state["exchange_ts"]) == (at(T_MS), at(T_MS + 3 * MIN))
    assert [row["move"] for row in stored(place, "hotlist_move")] == ["added", "prolonged"]


def test_two_moves_of_a_minute_leave_the_second(writer: PostgresWriter, place: Place) -> None:
    """An entry that expires in the minute in which the asset becomes hot again."""
    writer.write_market([phase(Audit(hot=(hot("expired", 0, 0), hot("added", 0, 36))))])
    (state,) = stored(place, "hotlist_state")
    assert state["hot_expires_at"] == at(T_MS + 36 * MIN)
    assert len(stored(place, "hotlist_move")) == 2


def test_nothing_of_a_batch_stays_when_its_audit_fails(
    writer: PostgresWriter, place: Place
) -> None:
    """Rows, frames and audits are one transaction."""
    with open_session(place.dsn, place.schema) as connection:
        connection.execute("alter table tier_move drop column tier")
    with pytest.raises(WriteError, match="tier_move"):
        writer.write_market([phase(FULL)])
    assert stored(place, "universe_audit") == []


def test_a_move_that_is_refused_is_set_aside(writer: PostgresWriter, place: Place) -> None:
    """The line and the entry are two tables; what the one refuses, the other may hold."""
    bad = Audit(change=FULL.change, hot=(hot("lost", 0, 1), hot("added", 1, 2)))
    writer.write_market([phase(bad)])
    assert len(stored(place, "universe_audit")) == 1
    assert [row["move"] for row in stored(place, "hotlist_move")] == ["added"]
    (letter,) = stored(place, "dead_letter")
    assert "hotlist_move (asset_uid=5," in letter["reason"]
    assert "hotlist_move_word" in letter["reason"]


def test_dead_letters_are_stored_once(writer: PostgresWriter, place: Place) -> None:
    """What the topic of dead letters has; the same event in another minute is another letter."""
    payload = {"event_id": "e-1", "asset_uid": 5, "exchange_ts": "soon", "x": float("nan")}
    for _ in range(2):
        writer.write_published([published(payload, payload)])
    writer.write_published([published(payload, minute_ms=T_MS + MIN)])
    first, second = stored(place, "dead_letter")
    assert (first["minute_ts"], second["minute_ts"]) == (at(T_MS), at(T_MS + MIN))
    line = orjson.loads(dead_json(dead_letter(payload, "v: expected 0.1")))
    assert first["event_ts"] == line.pop("exchange_ts")
    assert {name: first[name] for name in line} == line


@pytest.mark.parametrize(
    "payload",
    [
        {"event_id": "a\0b", "exchange_ts": "\0"},
        {"event_id": "\ud800", "x": "\ud800\0"},
        {"asset_uid": 2**70, "event_id": 7},
        {},
    ],
)
def test_no_event_is_too_broken_for_a_dead_letter(
    writer: PostgresWriter, place: Place, payload: dict[str, Any]
) -> None:
    """Characters and numbers that the server cannot hold do not stop the batch."""
    writer.write_published([published(payload)])
    (letter,) = stored(place, "dead_letter")
    assert letter["reason"] == "v: expected 0.1"
