"""Backfill jobs and the gap ledger, from the local exchange into PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from typer.testing import CliRunner, Result

from dataflows.backfill import BOOTSTRAP, Ask, Coin, Run, labels_between
from dataflows.cli import app
from dataflows.cli import backfill as backfill_command
from dataflows.cli import gaps as gaps_command
from dataflows.cli.failures import DONE, FAILED, INPUT, USAGE
from dataflows.connectors.candles import Backfill, BackfillError, CandleStore
from dataflows.connectors.clock import SystemClock
from dataflows.connectors.gap_ledger import GapLedger
from dataflows.connectors.migrate import create_partitions as make_months
from dataflows.connectors.migrate import month_of, open_session
from dataflows.connectors.postgres import GAP_TABLES, MARKET_TABLES, PostgresWriter
from dataflows.connectors.venue_rest import RestConfig, VenueRest
from fixtures.exchange import Exchange, running_exchange
from fixtures.market import FrameOptions, Scenario, default_assets, lines, meta
from operators.feed import FeedReader, FeedState
from operators.lattice import iso
from operators.loop import Loop
from operators.records import MarketPhase
from packs.loader import load_packs

if TYPE_CHECKING:
    from conftest import Place

pytestmark = pytest.mark.service

MINUTE = 60_000
START = 1_790_000_100_000
MINUTES = 8
END = START + MINUTES * MINUTE
NOW = END + 15_000
PACKS = load_packs()
SCENARIO = Scenario(
    11,
    START,
    MINUTES,
    default_assets(3),
    (),
    FrameOptions(quote_ms=(9000, 9000, 9000, 9000), book=False, ctx_ms=30_000),
)
BTC, ETH, SOL = (Coin(asset.uid, asset.coin) for asset in SCENARIO.assets)
HOLE = (START + 3 * MINUTE + 20_000, START + 5 * MINUTE + 10_000)  # three minutes, one whole
TOUCHED = list(labels_between(HOLE[0], HOLE[1] + MINUTE))
SPAN = labels_between(START, END)
NEVER_TOUCHED = ("features_snapshot", "market_snapshot", "baseline_state", "anomaly_event", "gap")


class Stopped(SystemClock):
    """A clock that stands still; who sleeps moves its monotonic side."""

    def __init__(self, now_ms: int = NOW) -> None:
        self.now_ms = now_ms
        self.slept_s = 0.0

    def now_ns(self) -> int:
        return self.now_ms * 1_000_000

    def monotonic_s(self) -> float:
        return self.slept_s

    def sleep(self, seconds: float) -> None:
        self.slept_s += seconds


@pytest.fixture(scope="module")
def log() -> list[bytes]:
    """Eight minutes of three assets, without a hole."""
    return [line.rstrip(b"\n") for line in lines(SCENARIO)]


@pytest.fixture
def exchange(log: list[bytes]) -> Iterator[Exchange]:
    """The venue, which has seen all of it."""
    with running_exchange(seed=log, meta=meta(SCENARIO), clock=Stopped()) as server:
        server.faults.skew_ms = NOW - END - 5_000  # its clock goes on after the last line
        yield server


@pytest.fixture
def store(place: Place) -> Iterator[CandleStore]:
    """The tables of a schema of the test's own."""
    with CandleStore(place.dsn, place.schema) as opened:
        yield opened


def record(place: Place, log: list[bytes], holes: list[tuple[int, int]]) -> None:
    """Store what the product makes of the recording with holes in it."""
    for start, end in holes:
        mark = (
            '{}000000 {{"channel":"alpha.gap","data":{{"start_ms":{},"end_ms":{},"cause":"cut"}}}}'
        )
        beat = '{}000000 {{"channel":"alpha.clock","data":{{}}}}'
        low, high = start * 1_000_000, end * 1_000_000
        stamped = [(int(line.partition(b" ")[0]), line) for line in log]
        log = [
            *(line for stamp, line in stamped if stamp < low),
            mark.format(start, start, "null").encode(),
            *(beat.format(at).encode() for at in range(start + 4_000, end, 4_000)),
            mark.format(end, start, end).encode(),
            *(line for stamp, line in stamped if stamp >= high),
        ]
    lattice = PACKS.features.lattice
    reader = FeedReader(
        FeedState(),
        lateness_ms=lattice.lateness_ms,
        grace_ms=lattice.grace_ms,
        arrival_jump_gap_ms=lattice.arrival_jump_gap_ms,
    )
    made = Loop(PACKS, "test").ticks(reader.read(log))
    columns = {column.name: column.type for column in PACKS.features.stored}
    with open_session(place.dsn, place.schema) as connection:
        months = [(f"features_snapshot_{tf}", month_of(START)) for tf in ("1m", "15m", "1h")]
        make_months(connection, place.schema, months)
    tables = (*MARKET_TABLES, *GAP_TABLES)
    writer = PostgresWriter(place.dsn, columns, schema=place.schema, backoff_s=(), only=tables)
    writer.write_market([phase for phase in made if isinstance(phase, MarketPhase)])
    writer.write_gaps("ticks", reader.take_holes())
    writer.close()


Job = Callable[..., Backfill]


@pytest.fixture
def job(store: CandleStore, exchange: Exchange) -> Iterator[Job]:
    """Maker of jobs that give up after two tries."""
    clients = []

    def make(clock: Stopped | None = None) -> Backfill:
        clock = clock or Stopped()
        config = RestConfig(url=exchange.url, attempts=2, weight_per_min=200)
        clients.append(VenueRest(config, clock))
        return Backfill(store, clients[-1], clock, lambda line: None)

    yield make
    for client in clients:
        client.close()


def table(place: Place, name: str, order: str = "1, 2, 3") -> list[tuple[Any, ...]]:
    """All of a table."""
    with open_session(place.dsn, place.schema) as connection:
        text = f"select * from {name} order by {order}"
        return connection.execute(text.encode()).fetchall()


def counted(place: Place, question: str) -> Any:
    """The one value that a question has."""
    with open_session(place.dsn, place.schema) as connection:
        found = connection.execute(question.encode()).fetchone()
    assert found is not None
    return found[0]


ASK = Ask(BOOTSTRAP, dict.fromkeys((BTC, ETH, SOL), SPAN))


# --- jobs ------------------------------------------------------------------------------------


def test_a_bootstrap_stores_raw_candles_and_touches_nothing_else(
    place: Place, store: CandleStore, exchange: Exchange, log: list[bytes], job: Job
) -> None:
    """Marked with source and job; rows, baselines and events stay as they are, byte for byte; and
    where the ticks were whole the two agree."""
    record(place, log, [HOLE])
    before = {name: table(place, name) for name in NEVER_TOUCHED}
    outcome = job().run(ASK)
    assert (outcome.status, outcome.stored, outcome.missing) == ("done", 3 * MINUTES, 0)
    assert {name: table(place, name) for name in NEVER_TOUCHED} == before
    assert counted(place, "select count(*) from baseline_state") == 0
    marks = "select array_agg(distinct source || ' ' || backfill_job_id) from candle_bar"
    assert counted(place, marks) == [f"candle_snapshot {ASK.job_id}"]
    assert counted(
        place,
        "select array_agg(distinct exchange_ts order by exchange_ts) <@"
        f" array_agg(distinct '{iso(START)}'::timestamptz + n * interval '1 min')"
        " from candle_bar, generate_series(1, 8) as n",
    )
    # The first minute has the recorder's start, three have the hole, one what was on its way.
    assert outcome.divergence.compared >= 3 * (MINUTES - 4)
    assert {label for _, label, _ in outcome.divergence.first} <= {TOUCHED[0] - MINUTE}


def test_candles_have_nothing_that_a_baseline_could_use(place: Place) -> None:
    """No z, no quantile, no positioning, no microstructure: not NULL but not there. And no code
    but that of backfills knows the table."""
    with open_session(place.dsn, place.schema) as connection:
        found = connection.execute("select * from candle_bar limit 0").description
    names = {column.name for column in found or ()}
    features = {column.name for column in PACKS.features.stored}
    assert names & features == {"open", "high", "low", "close", "source"}
    root = Path(__file__).parents[2]
    users = {
        path.name
        for package in ("dataflows", "operators", "packs", "sql/queries")
        for path in (root / package).rglob("*.*")
        if path.suffix in (".py", ".sql", ".yaml") and "candle_bar" in path.read_text()
    }
    assert users == {"backfill.py", "candles.py", "insert_candles.sql", "stored_candles.sql"}


def test_repeating_a_job_asks_for_nothing(
    place: Place, store: CandleStore, exchange: Exchange, job: Job
) -> None:
    """What is stored is not asked for again; the job counts its runs."""
    job().run(ASK)
    stored, requests = table(place, "candle_bar"), exchange.counters["requests"]
    again = job().run(ASK)
    assert (again.status, again.runs, again.requests) == ("done", 2, 3)
    assert exchange.counters["requests"] == requests
    assert table(place, "candle_bar") == stored
    audit = "select array_agg(run || ' ' || action order by run, action) from backfill_audit"
    assert counted(place, audit) == ["1 done", "1 started", "2 done", "2 started"]


def test_a_venue_that_goes_away_keeps_what_came(
    place: Place, store: CandleStore, exchange: Exchange, job: Job
) -> None:
    """One message; the same ask goes on where it stopped, and the end is the same as without."""
    first = job()
    fetched: list[Coin] = []
    real = store.add

    def add(coin: Coin, *args: Any, **named: Any) -> None:
        real(coin, *args, **named)
        fetched.append(coin)
        exchange.faults.http_5xx = -1

    store.add = add  # type: ignore[method-assign]
    with pytest.raises(BackfillError, match=r"8 of 24 minutes stored: .*HTTP 502.* \(2 attempts\)"):
        first.run(ASK)
    assert fetched == [BTC]
    (row,) = store.jobs(5)
    assert (row["status"], row["minutes_stored"], row["minutes_missing"]) == ("failed", 8, 16)
    assert "502" in row["reason"]
    exchange.faults.http_5xx = 0
    store.add = real  # type: ignore[method-assign]
    outcome = job().run(ASK)
    assert (outcome.status, outcome.runs, outcome.stored) == ("done", 2, 24)
    # One that was answered, one that was not, and the two that were left.
    assert outcome.requests == 4


def test_a_killed_job_is_noticed(place: Place, store: CandleStore, job: Job) -> None:
    """It says to run until the next one starts; only one runs at a time."""
    killed = Ask(BOOTSTRAP, {BTC: SPAN})
    store.start(killed, NOW - MINUTE)
    with CandleStore(place.dsn, place.schema) as other:
        other.lock()
        with pytest.raises(BackfillError, match="expected no other backfill"):
            job().run(ASK)
    job().run(ASK)
    states = {row["backfill_job_id"]: row["status"] for row in store.jobs(5)}
    assert states == {killed.job_id: "interrupted", ASK.job_id: "done"}


def test_an_interrupted_job_says_so(
    store: CandleStore, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C is passed on."""
    running = job()

    def interrupt(*args: Any, **named: Any) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(VenueRest, "fetch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        running.run(ASK)
    assert [row["status"] for row in store.jobs(5)] == ["interrupted"]


def test_what_the_venue_does_not_have_is_counted(store: CandleStore, job: Job) -> None:
    """An unknown coin costs itself, and minutes before the first candle are missing."""
    ask = Ask(BOOTSTRAP, {BTC: labels_between(START - 10 * MINUTE, END), Coin(9, "NOPE"): SPAN})
    outcome = job().run(ask)
    assert (outcome.status, outcome.asked) == ("partial", 2 * MINUTES + 10)
    known = set(store.candles(BTC.uid, ask.span))
    assert set(SPAN) <= known < set(ask.labels[BTC])
    assert outcome.missing == outcome.asked - len(known)
    assert outcome.rejected == {"unknown_coin": 1}
    assert outcome.reason == (
        f"the venue has no candle for {outcome.missing} of 26 minutes (unknown_coin 1)"
    )


def test_a_fresh_quiet_minute_may_come_later(
    store: CandleStore, exchange: Exchange, job: Job
) -> None:
    """The venue fills minutes without a trade when it likes; the job is completed then."""
    later = Ask(BOOTSTRAP, {BTC: labels_between(START, END + 2 * MINUTE)})
    exchange.faults.skew_ms, exchange.faults.candle_lag_ms = 4 * MINUTE, 4 * MINUTE
    assert job().run(later).status == "partial"
    exchange.faults.candle_lag_ms = 0
    outcome = job().run(later)
    assert (outcome.status, outcome.missing) == ("done", 0)
    quiet = store.candles(BTC.uid, Run(END + 2 * MINUTE, END + 2 * MINUTE))
    assert [(c.trades, c.volume_base, c.open == c.close) for c in quiet.values()] == [
        (0, 0.0, True)
    ]


def test_the_share_of_the_rate_limit_is_kept(store: CandleStore, job: Job) -> None:
    """Two hundred a minute are ten requests; the eleventh waits for the next minute."""
    clock = Stopped()
    coins = {Coin(uid, BTC.name): SPAN for uid in range(11)}
    outcome = job(clock).run(Ask(BOOTSTRAP, coins))
    assert outcome.requests == 11
    assert clock.slept_s == 60.0


# --- the ledger ------------------------------------------------------------------------------


def test_the_ledger_says_what_a_gap_has_cost(
    place: Place, store: CandleStore, job: Job, log: list[bytes]
) -> None:
    """Candles stand beside the stale minutes, by a repair job, and nothing else is fetched."""
    record(place, log, [HOLE])
    before = {name: table(place, name) for name in NEVER_TOUCHED}
    ledger = GapLedger(store)
    done = ledger.reconcile(job(), since_ms=START, now_ms=NOW)
    assert {name: table(place, name) for name in NEVER_TOUCHED} == before
    assert (done.gaps, done.waiting, done.failure) == (1, 0, None)
    assert done.outcome is not None
    assert done.outcome.status == "done"
    marks = "select array_agg(distinct source || ' ' || backfill_job_id) from candle_bar"
    assert counted(place, marks) == [f"backfill {done.outcome.job_id}"]
    (cut,) = ledger.lines(START)
    assert (cut.gap.cause, cut.gap.started_ms, cut.gap.ended_ms) == ("cut", *HOLE)
    assert (cut.status, [entry["symbol"] for entry in cut.entries]) == (
        "reconciled",
        ["BTC", "ETH", "SOL"],
    )
    for entry in cut.entries:
        venue = store.candles(entry["asset_uid"], Run(TOUCHED[0], TOUCHED[-1]))
        built = store.built(entry["asset_uid"], Run(TOUCHED[0], TOUCHED[-1]))
        assert sorted(venue) == sorted(built) == TOUCHED
        assert all("gap" in row.reasons for row in built.values())
        lost = sum(c.trades for c in venue.values()) - sum(b.trades or 0 for b in built.values())
        assert entry["trades_missing"] == lost > 0
        whole = venue[TOUCHED[1]]
        assert built[TOUCHED[1]].trades == 0
        assert entry["volume_missing_base_min"] > whole.volume_base
        assert entry["low_missed"] <= whole.low < whole.high <= entry["high_missed"]


def test_a_second_run_of_the_ledger_changes_nothing(
    place: Place, store: CandleStore, exchange: Exchange, log: list[bytes], job: Job
) -> None:
    """No job where no candle is missing, and the same entries."""
    record(place, log, [HOLE])
    ledger = GapLedger(store)
    ledger.reconcile(job(), since_ms=START, now_ms=NOW)
    first, requests = table(place, "gap_reconciliation"), exchange.counters["requests"]
    again = ledger.reconcile(job(), since_ms=START, now_ms=NOW)
    assert again.outcome is None
    assert exchange.counters["requests"] == requests
    assert table(place, "gap_reconciliation") == first


def test_a_ledger_without_the_venue_is_completed_later(
    place: Place, store: CandleStore, exchange: Exchange, log: list[bytes], job: Job
) -> None:
    """What is not known is said; a gap that has just ended waits."""
    record(place, log, [HOLE])
    ledger = GapLedger(store)
    early = ledger.reconcile(job(), since_ms=START, now_ms=TOUCHED[-1] + 9_000)
    assert early.waiting == 1
    exchange.faults.http_5xx = -1
    failed = ledger.reconcile(job(), since_ms=START, now_ms=NOW)
    assert failed.failure is not None
    line = ledger.lines(START)[0]
    assert (line.status, line.total("minutes_without_candle")) == ("partial", 3 * len(TOUCHED))
    exchange.faults.http_5xx = 0
    ledger.reconcile(job(), since_ms=START, now_ms=NOW)
    assert ledger.lines(START)[0].status == "reconciled"


def test_a_minute_of_two_gaps_is_counted_once(
    place: Place, store: CandleStore, exchange: Exchange, log: list[bytes], job: Job
) -> None:
    """Short reconnects in one minute do not double what was lost."""
    T = START + 3 * MINUTE
    record(place, log, [(T + 10_000, T + 20_000), (T + 30_000, T + 45_000)])
    ledger = GapLedger(store)
    ledger.reconcile(job(), since_ms=START, now_ms=NOW)
    first, second = ledger.lines(START)
    assert (first.total("minutes"), second.total("minutes")) == (3, 0)
    assert (first.status, second.status) == ("reconciled", "reconciled")
    assert second.total("trades_missing") == 0 < first.total("trades_missing")


# --- the commands ------------------------------------------------------------------------------

Alpha = Callable[..., Result]


@pytest.fixture
def alpha(
    place: Place, exchange: Exchange, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Alpha:
    """Run a command against the schema and the exchange, at the end of the recording."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALPHA_DATABASE_URL", place.dsn)
    monkeypatch.setenv("ALPHA_REST_URL", exchange.url)
    for module in (backfill_command, gaps_command):
        monkeypatch.setattr(module, "SystemClock", Stopped)

    def run(*arguments: object) -> Result:
        given = [*arguments, "--schema", place.schema]
        result = CliRunner().invoke(app, [str(each) for each in given])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def test_the_command_bootstraps_and_lists_its_jobs(
    place: Place, alpha: Alpha, log: list[bytes]
) -> None:
    """By default the most traded and what the venue has of the last minutes."""
    ran = alpha("backfill", "--coins", "ETH,BTC", "--minutes", MINUTES, "--json")
    assert ran.exit_code == DONE, ran.stderr
    found = orjson.loads(ran.stdout)
    assert (found["status"], found["minutes_stored"]) == ("done", 2 * MINUTES)
    assert counted(place, "select array_agg(distinct symbol) from candle_bar") == ["BTC", "ETH"]
    again = alpha("backfill", "--coins", "BTC,ETH", "--minutes", MINUTES)
    assert f"job {found['backfill_job_id']}: done, 16 of 16 minutes" in again.stdout
    listed = alpha("backfill", "--jobs")
    assert found["backfill_job_id"] in listed.stdout
    assert alpha("backfill", "--minutes", 3).exit_code == DONE
    assert counted(place, "select max(asset_uid) from candle_bar") == SOL.uid


def test_the_command_repairs_what_a_gap_made_stale(
    place: Place, alpha: Alpha, log: list[bytes]
) -> None:
    """Only those minutes, and only of the coins that are named."""
    nothing = alpha("backfill", "--repair")
    assert "nothing to ask for" in nothing.stdout
    record(place, log, [HOLE])
    given = ("--repair", "--coins", "SOL", "--since", iso(START + 2 * MINUTE))
    ran = alpha("backfill", *given, "--json")
    assert orjson.loads(ran.stdout)["minutes_stored"] == len(TOUCHED)
    assert counted(place, "select array_agg(distinct source) from candle_bar") == ["backfill"]


def test_the_command_lists_gaps_and_what_they_cost(
    place: Place, alpha: Alpha, exchange: Exchange, log: list[bytes]
) -> None:
    """Before and after the venue was asked; when it is away there is one message."""
    assert alpha("gaps").stdout.strip() == "no gap"
    record(place, log, [HOLE])
    assert "not reconciled" in alpha("gaps").stdout
    exchange.faults.http_5xx = -1
    away = alpha("gaps", "--reconcile")
    assert away.exit_code == FAILED
    assert away.stderr.count("error:") == 1
    assert "the same command goes on" in away.stderr
    exchange.faults.http_5xx = 0
    shown = alpha("gaps", "--reconcile", "--assets")
    assert shown.exit_code == DONE, shown.stderr
    assert "cut" in shown.stdout
    assert "SOL" in shown.stdout
    found = orjson.loads(alpha("gaps", "--json").stdout)
    assert found["reconciled"] is None
    (line,) = [gap for gap in found["gaps"] if gap["cause"] == "cut"]
    assert line["status"] == "reconciled"
    assert all(entry["trades_missing"] > 0 for entry in line["assets"])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--coins", "BTC,ETHH"), USAGE, "'ETHH'; did you mean ETH?"),
        (("--coins", ","), USAGE, "expected names"),
        (("--since", "then"), USAGE, "expected a time"),
        (("--since", "2030-01-01"), USAGE, "expected a closed minute"),
        (("--since", "2020-01-01", "--until", "2020-01-02"), INPUT, "keeps no candles"),
    ],
)
def test_wrong_asks_are_one_message(
    place: Place, alpha: Alpha, arguments: tuple[str, ...], code: int, words: str
) -> None:
    """And leave no job behind."""
    ran = alpha("backfill", *arguments)
    assert (ran.exit_code, ran.stdout) == (code, "")
    assert ran.stderr.lower().count("error:") == 1
    assert words in " ".join(ran.stderr.replace("│", " ").split())
    assert table(place, "backfill_job") == []


def test_a_span_that_is_partly_gone_is_cut(alpha: Alpha) -> None:
    """It says from when on there is something."""
    ran = alpha("backfill", "--coins", "BTC", "--since", iso(NOW - 5100 * MINUTE), "--json")
    assert "the venue keeps no older candles" in ran.stderr
    assert orjson.loads(ran.stdout)["minutes_asked"] == 5000


def test_a_venue_that_is_not_there_is_one_message(
    alpha: Alpha, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is noted before anything could be asked."""
    ran = alpha("backfill", "--rest-url", "http://127.0.0.1:9")
    assert ran.exit_code == FAILED
    assert ran.stderr.count("error:") == 1


def test_a_job_that_is_killed_goes_on(place: Place, tmp_path: Path) -> None:
    """kill -9 between two requests: what was stored stays, and the same command does the rest."""
    start = SystemClock().now_ns() // 1_000_000 // MINUTE * MINUTE - 12 * MINUTE
    recent = replace(SCENARIO, start_ms=start)
    span = ("--since", iso(start), "--until", iso(start + MINUTES * MINUTE))
    program = "import sys; sys.path.insert(0, sys.argv.pop(1)); from dataflows.cli import main"
    with running_exchange(seed=lines(recent), meta=meta(recent)) as exchange:
        exchange.faults.skew_ms = MINUTE
        given = {"ALPHA_DATABASE_URL": place.dsn, "ALPHA_REST_URL": exchange.url}
        command = [sys.executable, "-c", f"{program}; main()", str(Path(__file__).parents[2])]
        command += ["backfill", *span, "--coins", "BTC,ETH,SOL", "--schema", place.schema]

        def run(weight: int) -> subprocess.Popen[str]:
            return subprocess.Popen(
                [*command, "--weight-per-min", str(weight), "--json"],
                cwd=tmp_path,
                env={**os.environ, **given},
                text=True,
                stdout=subprocess.PIPE,
            )

        stored = "select count(*) from candle_bar"
        with run(45) as process:  # what is listed and one answer; then it waits a minute
            deadline = SystemClock().monotonic_s() + 30
            while counted(place, stored) == 0:
                assert SystemClock().monotonic_s() < deadline
                SystemClock().sleep(0.05)
            process.kill()
        assert counted(place, stored) == MINUTES
        assert counted(place, "select status from backfill_job") == "running"
        with run(1200) as process:
            out, _ = process.communicate(timeout=30)
    found = orjson.loads(out)
    assert (found["status"], found["runs"], found["minutes_stored"]) == ("done", 2, 3 * MINUTES)
    assert counted(place, stored) == 3 * MINUTES
    audit = "select array_agg(run || ' ' || action order by run, action desc) from backfill_audit"
    assert counted(place, audit) == ["1 started", "2 started", "2 done"]
