"""Each way in which stored products can be wrong is found and named, in files and in tables."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString, Protocol

import orjson
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from dataflows.archive import Archive, Span, row_of
from dataflows.connectors.archive_files import FileArchive
from dataflows.connectors.archive_postgres import PostgresArchive
from dataflows.connectors.database import Database
from dataflows.connectors.migrate import open_session
from dataflows.connectors.postgres import PostgresWriter
from dataflows.flow import Sinks
from dataflows.replay import REPLAY, product_path, replay
from dataflows.verify import Stretch, Verification, Verifier
from fixtures.market import Episode, FrameOptions, Scenario, default_assets, lines
from operators.lattice import iso
from operators.publish import canonical
from operators.records import MarketPhase, Phase
from packs.loader import load_packs

pytestmark = [pytest.mark.service, pytest.mark.engine]

Object = dict[str, Any]


class Place(Protocol):
    """Where a test may keep tables: the fixture `place`."""

    dsn: str
    schema: str


PACKS = load_packs()
MINUTE_MS = 60_000
SCENARIO = Scenario(
    seed=11,
    start_ms=1_790_000_000_000 // MINUTE_MS * MINUTE_MS,
    minutes=226,
    assets=default_assets(2),
    episodes=(Episode("squeeze", 206, 5, ("ETH",)), Episode("basket_shock", 216, 2, strength=-1.0)),
    frames=FrameOptions(quote_ms=(15_000, 15_000, 15_000, 15_000), book=False, ctx_ms=15_000),
)
AMENDED = 100


@dataclass(frozen=True)
class Run:
    """A log and its products as files."""

    log: Path
    out: Path

    def objects(self, product: str) -> list[dict[str, Any]]:
        """The objects of a product file."""
        return [orjson.loads(t) for t in product_path(self.out, product).read_bytes().splitlines()]


class Files:
    """Products in files, to be spoilt."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def archive(self) -> Archive:
        """The archive of them."""
        return FileArchive(self.out)

    def change(
        self, product: str, wanted: Callable[[Object], bool], new: Callable[[Object], Object | None]
    ) -> None:
        """Replace the lines that are wanted, or drop them."""
        path, kept, hits = product_path(self.out, product), [], 0
        for text in path.read_bytes().splitlines():
            line: Object | None = orjson.loads(text)
            assert line is not None
            if wanted(line):
                line, hits = new(line), hits + 1
            kept += [] if line is None else [canonical(line) + b"\n"]
        assert hits
        path.write_bytes(b"".join(kept))

    def set_row(self, uid: int, label: str, column: str, value: float) -> None:
        """Change a number of a minute's row."""
        self.change("rows", minute_row(uid, label), lambda line: {**line, column: value})

    def remove_row(self, uid: int, label: str) -> None:
        """Drop a minute's row."""
        self.change("rows", minute_row(uid, label), lambda line: None)

    def restore_former(self, run: Run, uid: int, label: str) -> None:
        """Lose the amendment of a row."""
        wanted = minute_row(uid, label)
        self.change("rows", lambda line: wanted(line) and line["revision"] > 0, lambda line: None)

    def swap_frames(self, label: str, other: str) -> None:
        """Let two frames change their contents."""
        self.change(
            "frames",
            lambda line: line["tf"] == "1m" and line["exchange_ts"] in (label, other),
            lambda line: {**line, "exchange_ts": other if line["exchange_ts"] == label else label},
        )

    def add_event(self, event: Object, copy: Object) -> None:
        """Append an event at the end of the file."""
        with product_path(self.out, "events").open("ab") as file:
            file.write(canonical(copy) + b"\n")

    def set_event(self, event: Object, changed: Object) -> None:
        """Replace an event."""
        self.change("events", lambda e: e["event_id"] == event["event_id"], lambda e: changed)

    def set_reason(self, held: Object, reason: str) -> None:
        """Change why a candidate was not published."""
        self.change(
            "suppressed", lambda line: line == held, lambda line: {**line, "reason": reason}
        )


class Tables:
    """Products in tables, to be spoilt by somebody who may do anything."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.connection = open_session(place.dsn, place.schema)

    def archive(self) -> Archive:
        """The archive of them."""
        return PostgresArchive(self.place.dsn, PACKS.features, schema=self.place.schema)

    def do(self, text: LiteralString, *values: object) -> None:
        """Run a statement that changes exactly what it is meant to."""
        assert self.connection.execute(text, values).rowcount > 0

    def set_row(self, uid: int, label: str, column: str, value: float) -> None:
        """Change a number of a minute's row."""
        text = sql.SQL(
            "update features_snapshot set {} = %s"
            " where asset_uid = %s and tf = '1m' and exchange_ts = %s"
        ).format(sql.Identifier(column))
        assert self.connection.execute(text, (value, uid, label)).rowcount == 1

    def remove_row(self, uid: int, label: str) -> None:
        """Drop a minute's row."""
        where = "where asset_uid = %s and tf = '1m' and exchange_ts = %s"
        assert (
            self.connection.execute(f"delete from features_snapshot {where}", (uid, label)).rowcount
            == 1
        )

    def restore_former(self, run: Run, uid: int, label: str) -> None:
        """Put the row as it was before its amendment."""
        self.remove_row(uid, label)
        wanted = minute_row(uid, label)
        former = next(line for line in run.objects("rows") if wanted(line))
        assert former["revision"] == 0
        columns = {column.name: column.type for column in PACKS.features.stored}
        writer = PostgresWriter(self.place.dsn, columns, schema=self.place.schema)
        writer.write_market([MarketPhase(Phase(0, False, 0, 0), (), (row_of(former),))])
        writer.close()

    def swap_frames(self, label: str, other: str) -> None:
        """Let two frames change their contents."""
        aside = "1970-01-01T00:00:00Z"
        for former, new in ((label, aside), (other, label), (aside, other)):
            self.do(
                "update market_snapshot set exchange_ts = %s where tf = '1m' and exchange_ts = %s",
                new,
                former,
            )

    def add_event(self, event: Object, copy: Object) -> None:
        """Copy an event under another id."""
        names = [
            name
            for (name,) in self.connection.execute(
                "select attname from pg_attribute where attrelid = 'anomaly_event'::regclass"
                " and attnum > 0 and not attisdropped"
            )
            if name not in ("event_id", "payload", "payload_bytes")
        ]
        columns = sql.SQL(", ").join(map(sql.Identifier, names))
        text = sql.SQL(
            "insert into anomaly_event (event_id, payload, payload_bytes, {columns})"
            " select %s, %s, %s, {columns} from anomaly_event where event_id = %s"
        ).format(columns=columns)
        values = (copy["event_id"], Jsonb(copy), canonical(copy), event["event_id"])
        assert self.connection.execute(text, values).rowcount == 1

    def set_event(self, event: Object, changed: Object) -> None:
        """Replace an event."""
        self.do(
            "update anomaly_event set payload = %s, payload_bytes = %s where event_id = %s",
            Jsonb(changed),
            canonical(changed),
            event["event_id"],
        )

    def set_reason(self, held: Object, reason: str) -> None:
        """Change why a candidate was not published."""
        self.do(
            "update suppression set reason = %s where asset_uid = %s and tf = %s"
            " and exchange_ts = %s and revision = %s and detector_id = %s",
            reason,
            *(held[n] for n in ("asset_uid", "tf", "exchange_ts", "revision", "detector_id")),
        )


Stored = Files | Tables


def minute_row(uid: int, label: str) -> Callable[[Object], bool]:
    """Tell whether a line is an asset's row of a minute."""
    return lambda line: (line["asset_uid"], line["tf"], line["exchange_ts"]) == (uid, "1m", label)


def flipped(digit: str) -> str:
    """Another hexadecimal digit."""
    return f"{int(digit, 16) ^ 1:x}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two assets with events; a print that came late amends a minute."""
    folder = tmp_path_factory.mktemp("verify")
    log, out = folder / "log", folder / "out"
    label_ms = SCENARIO.start_ms + AMENDED * MINUTE_MS
    print_ = {"coin": "BTC", "side": "B", "px": "60000", "sz": "0.5", "time": label_ms - 500}
    frame = orjson.dumps({"channel": "trades", "data": [{**print_, "tid": 1, "hash": "0x0"}]})
    late_ns = (label_ms + 2200) * 1_000_000
    with log.open("wb") as file:
        written = False
        for line in lines(SCENARIO):
            if not written and int(line[: line.index(b" ")]) > late_ns:
                file.write(b"%d %b\n" % (late_ns, frame))
                written = True
            file.write(line)
    replay(log, out, PACKS)
    return Run(log, out)


@pytest.fixture
def stored(request: pytest.FixtureRequest, run: Run, tmp_path: Path) -> Iterator[Stored]:
    """The products of the run to spoil, in files or in tables."""
    if request.param == "files":
        out = tmp_path / "out"
        shutil.copytree(run.out, out)
        yield Files(out)
        return
    place: Place = request.getfixturevalue("place")
    database = Database(tmp_path, place.dsn, schema=place.schema, packs=PACKS, run=REPLAY)
    sinks = Sinks(
        market={"database": database.market_sink(PACKS.features)},
        published={"database": database.event_sink(PACKS.features)},
    )
    replay(run.log, tmp_path / "again", PACKS, extra=sinks)
    tables = Tables(place)
    yield tables
    tables.connection.close()


BOTH = pytest.mark.parametrize("stored", ["files", "tables"], indirect=True)


def verified(run: Run, archive: Archive, stretch: Stretch | None = None) -> Verification:
    """Make it again and compare."""
    try:
        with Verifier(run.log, archive, PACKS, REPLAY, stretch or Stretch()) as verifier:
            return verifier.advance()
    finally:
        archive.close()


@BOTH
def test_what_was_stored_is_made_again(run: Run, stored: Stored) -> None:
    """Every product, every minute; the amended row in both forms."""
    found = verified(run, stored.archive())
    assert found.tally.mismatches == 0, found.tally.examples
    counts = {p: len(run.objects(p)) for p in ("rows", "frames", "events", "suppressed")}
    assert counts["events"] >= 2
    assert any(row["revision"] for row in run.objects("rows"))
    if isinstance(stored, Tables):  # the newest revision alone is kept
        counts["rows"] -= sum(row["revision"] for row in run.objects("rows"))
        counts["frames"] -= sum(frame["revision"] for frame in run.objects("frames"))
    assert found.tally.compared == counts
    assert found.tally.minutes == {"judged": SCENARIO.minutes}
    assert (found.began, found.dropped) == ([], {})


@BOTH
def test_each_kind_of_damage_is_found_and_named(run: Run, stored: Stored) -> None:
    """A last bit, a missing row, a surplus event, an older revision, swapped frames, a reason."""
    label = [iso(SCENARIO.start_ms + minute * MINUTE_MS) for minute in range(SCENARIO.minutes + 1)]
    rows = {(r["asset_uid"], r["exchange_ts"]): r for r in run.objects("rows") if r["tf"] == "1m"}
    frames = {f["exchange_ts"]: f for f in run.objects("frames") if f["tf"] == "1m"}
    expected = set()

    value = rows[0, label[30]]["close"]
    stored.set_row(0, label[30], "close", math.nextafter(value, math.inf))
    expected.add(("differs", "rows", label[30], "BTC", "close"))

    stored.remove_row(1, label[40])
    expected.add(("missing", "rows", label[40], "ETH", ""))

    stored.restore_former(run, 0, label[AMENDED])
    if isinstance(stored, Tables):
        expected.add(("differs", "rows", label[AMENDED], "BTC", "revision"))
    else:
        expected.add(("missing", "rows", label[AMENDED], "BTC", ""))

    stored.swap_frames(label[50], label[51])
    first = next(
        name
        for name in sorted(frames[label[50]])
        if name != "exchange_ts" and frames[label[50]][name] != frames[label[51]][name]
    )
    expected |= {("differs", "frames", at, "MARKET", first) for at in label[50:52]}

    event = run.objects("events")[0]
    copy = {**event, "event_id": event["event_id"][:-1] + flipped(event["event_id"][-1])}
    stored.add_event(event, copy)
    expected.add(("surplus", "events", event["exchange_ts"], event["symbol"], ""))

    louder = run.objects("events")[1]
    stored.set_event(louder, {**louder, "severity": louder["severity"] - 1})
    expected.add(("differs", "events", louder["exchange_ts"], louder["symbol"], "severity"))

    held = run.objects("suppressed")[0]
    stored.set_reason(held, "cooldown" if held["reason"] != "cooldown" else "gap")
    expected.add(("differs", "suppressed", held["exchange_ts"], held["symbol"], "reason"))

    found = verified(run, stored.archive())
    named = {(m.kind, m.product, m.exchange_ts, m.symbol, m.column) for m in found.tally.examples}
    assert named == expected
    assert found.tally.mismatches == len(expected)
    by_column = {m.column: m for m in found.tally.examples}
    assert (by_column["close"].stored, by_column["close"].made) == (
        math.nextafter(value, math.inf),
        value,
    )
    assert not found.in_order


@pytest.mark.parametrize("stored", ["files"], indirect=True)
def test_a_stretch_is_judged_after_its_warm_up(run: Run, stored: Stored) -> None:
    """Damage before the stretch is not looked at; the warm-up is counted."""
    label = [iso(SCENARIO.start_ms + minute * MINUTE_MS) for minute in range(SCENARIO.minutes + 1)]
    stored.remove_row(0, label[10])
    stored.remove_row(0, label[215])
    start = SCENARIO.start_ms
    span = Span(start + 200 * MINUTE_MS, start + 210 * MINUTE_MS)
    found = verified(run, stored.archive(), Stretch(span))
    assert found.tally.mismatches == 0, found.tally.examples
    assert found.tally.minutes == {"warm_up": 200, "judged": 10}
    cut = Stretch(span, warm_up_ms=start + 190 * MINUTE_MS)
    raw = verified(run, stored.archive(), cut)
    assert raw.tally.mismatches == 0, raw.tally.examples
    assert raw.tally.compared == {"rows": 20}
    assert raw.judged_columns is not None
    assert {"close", "v_total_m_1", "spread_mean_m_1"} <= set(raw.judged_columns)
    assert {"z_vol_m_1", "ret_m_5", "frames", "events"} <= set(raw.not_judged)
    stored.set_row(0, label[205], "close", 1.0)
    stored.set_row(0, label[206], "z_vol_m_1", 1.0)
    cut_damaged = verified(run, stored.archive(), cut)
    assert [m.column for m in cut_damaged.tally.examples] == ["close"]
