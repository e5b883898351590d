"""The queries of the page run against a database that a replay has filled, by `psql`."""

from __future__ import annotations

import csv
import os
import re
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest

from dataflows.connectors.database import Database
from dataflows.connectors.embedded_postgres import find_binaries
from dataflows.connectors.migrate import migrate
from dataflows.flow import Sinks
from dataflows.replay import product_path, replay
from operators.lattice import iso
from packs.loader import load_packs

pytestmark = [pytest.mark.service, pytest.mark.engine]

PAGE = Path(__file__).parents[2] / "docs" / "queries.md"
QUERIES = re.findall(r"```sql\n(.*?)```", PAGE.read_text(), re.DOTALL)


class Filled(NamedTuple):
    """A schema with all that a replay stores, and the replay's files."""

    dsn: str
    schema: str
    out: Path


@pytest.fixture(scope="module")
def filled(
    _shared_database: str, episode_log: Path, tmp_path_factory: pytest.TempPathFactory
) -> Filled:
    """What a replay left."""
    out = tmp_path_factory.mktemp("query_page")
    place = Filled(_shared_database, "query_page", out)
    migrate(place.dsn, place.schema)
    packs = load_packs()
    database = Database(out, place.dsn, schema=place.schema, packs=packs)
    extra = Sinks(
        market={"database": database.market_sink(packs.features)},
        published={"database": database.event_sink(packs.features)},
    )
    replay(episode_log, out, packs, extra=extra)
    return place


def asked(place: Filled, text: str) -> list[dict[str, str]]:
    """What `psql` prints of a query, by column."""
    done = subprocess.run(
        [str(find_binaries() / "psql"), place.dsn, "-X", "--csv", "-v", "ON_ERROR_STOP=1"],
        input=text,
        env={**os.environ, "PGOPTIONS": f"-c search_path={place.schema} -c timezone=utc"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return list(csv.DictReader(done.stdout.splitlines()))


def lines(out: Path, product: str) -> list[dict[str, Any]]:
    """Lines of a product of the replay."""
    return [orjson.loads(line) for line in product_path(out, product).read_bytes().splitlines()]


def test_the_page_asks_three_questions() -> None:
    """Each is answered below."""
    assert len(QUERIES) == 3


def test_the_last_rows_to_be_believed(filled: Filled) -> None:
    """Five minutes of one asset, the newest first, with their z-scores."""
    found = asked(filled, QUERIES[0])
    assert list(found[0]) == [
        *("exchange_ts", "mid_close", "ret_m_1", "v_total_m_1", "z_vol_m_1", "z_spread_m_1"),
        "warmup",
    ]
    fine = [
        row
        for row in lines(filled.out, "rows")
        if (row["symbol"], row["tf"], row["dq_status"]) == ("BTC", "1m", "ok")
    ]
    labels = sorted({row["exchange_ts"] for row in fine}, reverse=True)[:5]
    assert [stamp(line["exchange_ts"]) for line in found] == labels
    assert all(float(line["mid_close"]) > 0 and line["z_vol_m_1"] for line in found)


def test_the_strongest_events_of_the_day(filled: Filled) -> None:
    """In order of severity, each with what held and the values behind it."""
    found = asked(filled, QUERIES[1])
    assert list(found[0]) == [
        *("emitted_at", "symbol", "tf", "class", "subtype", "severity", "flags", "also"),
        "features",
    ]
    events = lines(filled.out, "events")
    day = max(event["emitted_at"] for event in events)[:10]
    of_day = [event for event in events if event["emitted_at"].startswith(day)]
    strongest = sorted((event["severity"] for event in of_day), reverse=True)[:5]
    assert [int(line["severity"]) for line in found] == strongest
    by_key = {(e["emitted_at"], e["symbol"], e["tf"], e["class"], e["subtype"]): e for e in of_day}
    for line in found:
        names = (line[name] for name in ("symbol", "tf", "class", "subtype"))
        event = by_key[stamp(line["emitted_at"]), *names]
        local = event["local_state"]
        assert orjson.loads(line["features"]) == local["features"]
        held = [name for name, holds in sorted(local["flags"].items()) if holds]
        assert line["flags"] == ", ".join(held)
        assert orjson.loads(line["also"] or "null") == event.get("coalesced")
    assert any(f"is_{line['subtype']}" in line["flags"] for line in found)


def test_why_a_candidate_was_held_back(filled: Filled) -> None:
    """A reason each, the verdict on its row, and for a cooldown the event it counts from."""
    found = asked(filled, QUERIES[2])
    assert list(found[0]) == [
        *("exchange_ts", "symbol", "detector_id", "reason", "severity", "trigger"),
        *("dq_status", "dq_reasons", "last_event", "last_severity"),
    ]
    held = {
        (line["exchange_ts"], line["symbol"], line["detector_id"], line["reason"])
        for line in lines(filled.out, "suppressed")
    }
    said = [
        (stamp(line["exchange_ts"]), line["symbol"], line["detector_id"], line["reason"])
        for line in found
    ]
    assert said
    assert set(said) <= held
    assert all(line["trigger"] for line in found)
    assert all(line["dq_status"] for line in found if line["symbol"] != "MARKET")
    cooled = [line for line in found if line["reason"] == "cooldown"]
    assert all("" < line["last_event"] < line["exchange_ts"] for line in cooled)


def stamp(text: str) -> str:
    """A time as `psql` prints it, as products have it."""
    return iso(round(datetime.fromisoformat(f"{text}:00").timestamp() * 1000))
