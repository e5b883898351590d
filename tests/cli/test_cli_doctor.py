"""`alpha doctor` and `alpha db`: what is found, and what it says to do."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dataflows.cli import doctor
from dataflows.cli.failures import NOT_IN_ORDER
from dataflows.connectors.spool import Spool
from fixtures.exchange import running_exchange
from operators import native
from operators.feed import Hole

BAD_PACK = Path(__file__).parents[2] / "fixtures/packs/four_faults.yaml"
NAMES = [
    *("python", "engine", "packages", "inner loops", "environment", "packs"),
    *(
        "data directory",
        "postgres programs",
        "database",
        "kafka",
        "venue",
        "tick log",
        "event topic",
        "spools",
    ),
]


@pytest.fixture(autouse=True)
def _no_venue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPHA_REST_URL", "http://127.0.0.1:9")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that the server's user can reach, too."""
    folder = Path(tempfile.mkdtemp(prefix="alpha-cli-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def by_name(ran: Any) -> dict[str, dict[str, str]]:
    """Return the checks of a JSON result."""
    return {check["name"]: check for check in ran.json["checks"]}


@pytest.mark.parametrize(
    ("plain", "found"),
    [
        ((), "compiled"),
        (("kernel", "context"), "plain Python (kernel, context): the same bytes, slower"),
        (tuple(native.UNITS), "plain Python: the same bytes, slower"),
    ],
)
def test_what_is_not_compiled_is_named(
    alpha: Any, monkeypatch: pytest.MonkeyPatch, plain: tuple[str, ...], found: str
) -> None:
    """It is in order all the same."""
    monkeypatch.setattr(native, "missing", lambda: plain)
    check = by_name(alpha("doctor", "--json"))["inner loops"]
    assert check["verdict"] == "ok"
    assert check["found"].startswith(found)


def test_a_good_installation_is_in_order(alpha: Any, small_log: Path, tmp_path: Path) -> None:
    """An unreachable venue is a warning; nothing is made or started."""
    ran = alpha("doctor", "--json")
    assert ran.code == 0
    assert ran.json["ok"] is True
    checks = by_name(ran)
    assert list(checks) == NAMES
    assert checks["venue"]["verdict"] == "warning"
    assert {checks[name]["verdict"] for name in NAMES if name != "venue"} == {"ok"}
    assert list(tmp_path.iterdir()) == []


def test_spools_that_wait_are_a_warning(
    alpha: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many items, for which sink, and what brings them on their way."""
    monkeypatch.setenv("ALPHA_DATA_DIR", str(tmp_path))
    for name in ("kafka-alpha.events.v0", "replay_1/postgres-market"):
        spool = Spool(tmp_path / "spool" / f"{name}.ndjson", Hole)
        spool.append([Hole(1, None, "disconnect"), Hole(2, 3, "start")])
        spool.close()
    check = by_name(alpha("doctor", "--json"))["spools"]
    assert check["verdict"] == "warning"
    first, second = check["found"].splitlines()
    assert "kafka-alpha.events.v0.ndjson: 2 items" in first
    assert "replay_1/postgres-market.ndjson: 2 items" in second
    assert "bring the server back" in check["advice"]


def test_the_table_is_readable(alpha: Any) -> None:
    """At 100 columns, with the advice below what was found."""
    ran = alpha("doctor")
    assert ran.code == 0
    assert max(map(len, ran.out.splitlines())) <= 100
    assert "-> recording and live runs need it" in ran.out
    assert "14 checks: ok 13, warning 1" in ran.out


def test_the_state_of_the_data_is_told(
    alpha: Any, small_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Last arrival in the log, last event in the topic."""
    monkeypatch.setenv("ALPHA_DATA_DIR", str(tmp_path / "data"))
    shutil.copytree(small_log, tmp_path / "data/ticks")
    (tmp_path / "data/topics").mkdir()
    (tmp_path / "data/topics/alpha.events.v0.ndjson").write_text(
        '{"event_id":"e","exchange_ts":"2026-09-21T20:01:00Z","symbol":"BTC","class":"spike",'
        '"subtype":"vol_spike_m_1","severity":50}\n'
    )
    checks = by_name(alpha("doctor", "--json"))
    assert "last arrival 2026-09-21T" in checks["tick log"]["found"]
    assert "last event 2026-09-21T20:01:00Z" in checks["event topic"]["found"]


def test_faults_are_found(alpha: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A pack with faults, a folder that is a file, a database that does not answer."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ALPHA_DETECTOR_PACK", str(BAD_PACK))
    monkeypatch.setenv("ALPHA_DATA_DIR", str(tmp_path / "file"))
    monkeypatch.setenv("ALPHA_DATABASE_URL", f"host={tmp_path} port=1 user=postgres")
    ran = alpha("doctor", "--json")
    assert ran.code == NOT_IN_ORDER
    assert ran.json["ok"] is False
    checks = by_name(ran)
    for name in ("packs", "data directory", "database"):
        assert checks[name]["verdict"] == "failed", name
        assert checks[name]["advice"]
    assert "4 faults" in checks["packs"]["found"]
    monkeypatch.setenv("ALPHA_DATABASE_URL", "off")
    assert by_name(alpha("doctor", "--json"))["database"]["verdict"] == "ok"


def test_a_wrong_environment_is_found(alpha: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is checked against settings that are not valid."""
    monkeypatch.setenv("ALPHA_MAX_ASSETS", "0")
    ran = alpha("doctor", "--json")
    assert ran.code == NOT_IN_ORDER
    assert list(by_name(ran))[-1] == "environment"
    assert "ALPHA_MAX_ASSETS" in ran.json["checks"][-1]["found"]


def test_missing_packages_are_named(alpha: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It works where nothing else does."""
    monkeypatch.setattr(doctor, "PACKAGES", {"no-such-thing": "no_such_thing"})
    ran = alpha("doctor")
    assert ran.code == NOT_IN_ORDER
    assert "no-such-thing is not installed" in ran.out
    assert "make venv" in ran.out


@pytest.mark.service
def test_the_venue_and_its_clock(alpha: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A venue of today agrees with our clock, one of the past does not."""
    with running_exchange() as exchange:
        monkeypatch.setenv("ALPHA_REST_URL", exchange.url)
        checks = by_name(alpha("doctor", "--json"))
        assert "assets listed" in checks["venue"]["found"]
        assert checks["clock"]["verdict"] == "ok"
        monkeypatch.setattr("dataflows.cli.doctor_checks.SKEW_MS_MAX", -1)
        ran = alpha("doctor", "--json")
        assert ran.code == 0
        assert by_name(ran)["clock"]["verdict"] == "warning"


def test_a_venue_that_hangs_is_given_up(alpha: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor does not wait for ever."""
    monkeypatch.setattr("dataflows.cli.doctor_checks.VENUE_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("ALPHA_REST_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        done: list[Any] = []
        thread = threading.Thread(target=lambda: done.append(alpha("doctor", "--json")))
        thread.start()
        thread.join(10)
        assert done
    assert by_name(done[0])["venue"]["verdict"] == "warning"


@pytest.mark.service
def test_the_embedded_server_starts_and_stops(
    alpha: Any, alpha_process: Any, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on after the command, is found again, and can be stopped twice."""
    assert alpha("db", "url", "--dir", open_folder).code == NOT_IN_ORDER
    assert list(open_folder.iterdir()) == []
    started = alpha_process("db", "start", "--dir", open_folder, "--json").json
    try:
        assert started["running"] is True
        assert Path(started["home"]).is_relative_to(open_folder)
        with psycopg.connect(started["url"]) as connection:
            assert connection.info.server_version >= 140_000
        assert alpha("db", "start", "--dir", open_folder, "--json").json == started
        assert alpha("db", "url", "--dir", open_folder).out.strip() == started["url"]
        monkeypatch.setenv("ALPHA_DATA_DIR", str(open_folder))
        found = by_name(alpha("doctor", "--json"))["database"]["found"]
        assert "running: PostgreSQL" in found
        assert "baselines" not in found
        alpha("db", "migrate")
        with psycopg.connect(started["url"]) as connection:
            connection.execute(
                "insert into baseline_state (asset_uid, tf, feature_name, feature_pack,"
                " updated_at, n_samples, quantile_state)"
                " values (3, '1m', 'v', 'v1.0', '2026-01-02 03:04Z', 5, '')"
            )
        found = by_name(alpha("doctor", "--json"))["database"]["found"]
        assert found.endswith("; baselines of 1 assets, the newest 2026-01-02T03:04:00Z")
    finally:
        stopped = alpha("db", "stop", "--dir", open_folder, "--json").json
    assert stopped["running"] is False
    assert alpha("db", "stop", "--dir", open_folder).code == 0
    deep = by_name(alpha("doctor", "--deep", "--json"))["database"]
    assert "starts: PostgreSQL" in deep["found"]
    assert alpha("db", "url", "--json").json["running"] is False
