"""The embedded server: started once, shared, survives a kill, never left behind."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from dataflows.connectors import embedded_postgres
from dataflows.connectors.embedded_postgres import EmbeddedPostgres, PostgresError, find_binaries

pytestmark = pytest.mark.service

SETTINGS = {"shared_buffers": "32MB"}
under_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have something to drop")


def server_on(folder: Path, **options: object) -> EmbeddedPostgres:
    """A small server on a folder."""
    return EmbeddedPostgres(folder, settings=SETTINGS, **options)  # type: ignore[arg-type]


@pytest.fixture
def data(spare_data: Path) -> Path:
    """Data that the tests share, one after the other; each leaves it without a server."""
    return spare_data


@pytest.fixture
def server(data: Path) -> Iterator[EmbeddedPostgres]:
    """A running server; stopped after the test."""
    server = server_on(data).start()
    yield server
    server.stop()


def put(server: EmbeddedPostgres, text: str) -> None:
    """Run a statement and commit it."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(text.encode())


def gone(pid: int) -> bool:
    """Tell whether a process has ended (a dead child that nobody collected has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_second_start_attaches(server: EmbeddedPostgres, data: Path) -> None:
    """Somebody else starts the same data: the same process answers."""
    other = server_on(data).start()
    assert other.pid() == server.pid()
    assert other.dsn() == server.dsn()
    assert re.fullmatch(r"pg\d+", other.home.name)


def test_starters_at_once_share_one_server(data: Path) -> None:
    """Whoever comes first launches it, the others attach."""
    servers = [server_on(data) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        pids = {started.pid() for started in pool.map(lambda one: one.start(), servers)}
    for one in servers:
        one.stop()
    assert len(pids) == 1


def test_stop_is_clean_and_may_be_repeated(data: Path) -> None:
    """One who only attached can stop it, too; a stopped server stays stopped."""
    first = server_on(data).start()
    pid = first.pid()
    server_on(data).stop()
    first.stop()
    assert pid is not None
    assert gone(pid)
    assert not first.alive()
    assert first.pid() is None
    assert "database system is shut down" in (first.home / "server.log").read_text()


def test_kill_then_start_on_the_same_data(data: Path) -> None:
    """kill -9 with clients connected: committed rows are there after the next start."""
    first = server_on(data).start()
    put(first, "create table if not exists kept (i int)")
    put(first, "insert into kept values (1)")
    client = psycopg.connect(first.dsn())
    pid = first.pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    second = server_on(data).start()
    with psycopg.connect(second.dsn()) as connection:
        assert connection.execute("select i from kept").fetchall() == [(1,)]
    assert second.pid() != pid
    client.close()
    second.stop()
    first.stop()


def test_stale_pid_of_another_program(data: Path) -> None:
    """After a kill and a reboot, the old process id may be anybody's: this process', say."""
    first = server_on(data).start()
    pid = first.pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    for lock in (first.home / "data" / "postmaster.pid", first.home / "s" / ".s.PGSQL.5432.lock"):
        lock.write_text(re.sub(r"\A\d+", str(os.getpid()), lock.read_text()))
    second = server_on(data)
    assert second.pid() is None
    second.start()
    assert second.alive()
    second.stop()
    first.stop()


def test_half_made_data_is_made_again(server_folder: Path) -> None:
    """A kill while the data is made leaves a folder that the next start does not take for data."""
    folder = server_folder / "half"
    left_over = server_on(folder).home / "data.new"
    left_over.mkdir(parents=True)
    (left_over / "PG_VERSION").write_text("18\n")
    with server_on(folder, own=True) as server:
        assert server.alive()
    assert server.pid() is None


def test_own_server_ends_with_its_process(data: Path) -> None:
    """kill -9 of the process that owns a server takes the server down, cleanly."""
    program = (
        "import sys, time, pathlib\n"
        "from dataflows.connectors.embedded_postgres import EmbeddedPostgres\n"
        "server = EmbeddedPostgres(pathlib.Path(sys.argv[1]), own=True).start()\n"
        "print(server.pid(), flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, data], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        owner.kill()
    deadline = time.monotonic() + 10
    while not gone(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert gone(pid)


def test_bad_setting_is_told_in_one_line(data: Path) -> None:
    """The reason comes from the server's log, with the place of the log."""
    bad = EmbeddedPostgres(data, settings={"shared_buffers": "plenty"})
    with pytest.raises(PostgresError, match=r"did not start: FATAL: .*shared_buffers.*server\.log"):
        bad.start()


def test_missing_programs_are_told(data: Path, tmp_path: Path) -> None:
    """A wrong folder of programs names the way out."""
    with pytest.raises(PostgresError, match="ALPHA_DATABASE_URL"):
        EmbeddedPostgres(data, binaries=tmp_path)


def test_long_path_gets_a_short_socket(tmp_path: Path) -> None:
    """A socket's address has room for about a hundred bytes, a data folder may be deeper."""
    deep = tmp_path.joinpath(*["folder"] * 12)
    assert len(server_on(deep, say=lambda line: None).dsn()) < 140


@under_root
def test_root_drops_to_another_user(server: EmbeddedPostgres) -> None:
    """The server and its files belong to that user; root still connects."""
    status = Path(f"/proc/{server.pid()}/status").read_text()
    uids = re.search(r"^Uid:\s+(\d+)\s+(\d+)", status, re.MULTILINE)
    assert uids is not None
    assert uids.group(1) == uids.group(2) != "0"
    assert (server.home / "data").stat().st_uid == int(uids.group(1))
    assert server.alive()


@under_root
def test_data_out_of_reach_goes_to_the_state_folder(
    server_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under root's home the other user cannot read: the data goes elsewhere, and we are told."""
    monkeypatch.setattr(embedded_postgres, "STATE_DIRECTORY", server_folder / "state")
    said: list[str] = []
    with tempfile.TemporaryDirectory() as private:
        server = server_on(Path(private) / "var", say=said.append)
        again = server_on(Path(private) / "var", say=said.append)
    assert server.home.is_relative_to(server_folder / "state")
    assert again.home == server.home
    assert len(said) == 2
    assert f"is kept in {server.home}" in said[0]
    assert "\n" not in said[0]


@under_root
def test_programs_out_of_reach_are_copied(data: Path) -> None:
    """A virtual environment in root's home: the programs are copied, with their libraries."""
    package = find_binaries().parent.parent
    needless = shutil.ignore_patterns("include", "*.a")
    with tempfile.TemporaryDirectory() as private:
        for folder in (package / "pginstall18", package.with_name(f"{package.name}.libs")):
            target = Path(private) / folder.relative_to(package.parent)
            shutil.copytree(folder, target, symlinks=True, ignore=needless)
        binaries = Path(private) / package.name / "pginstall18" / "bin"
        with server_on(data, own=True, binaries=binaries) as server:
            assert server.alive()
            assert (server.home / "programs" / ".complete").exists()
