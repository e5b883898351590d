"""The doctor's checks that need the packages: settings, packs, disk, servers, venue, state.

Rules of this file: a check is a function that returns one `Check` and catches what its subject can
raise; nothing is changed, but that `--deep` starts the embedded server and stops it again.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import orjson
import psycopg

from dataflows.cli.check import Check
from dataflows.cli.database import server_of
from dataflows.cli.events import TOPIC, parse_event
from dataflows.cli.logs import last_arrival_ns, size_of
from dataflows.cli.messages import messages_on_stderr
from dataflows.cli.screen import shown_size
from dataflows.connectors.clock import SystemClock
from dataflows.connectors.database import SPOOL_DIRECTORY
from dataflows.connectors.dsn import DsnError, connection_settings
from dataflows.connectors.embedded_postgres import EmbeddedPostgres, PostgresError, find_binaries
from dataflows.connectors.kafka import Bus, BusError
from dataflows.connectors.kafka_options import OptionsError, options_of
from dataflows.connectors.migrate import Connection, query
from dataflows.connectors.spool import waiting_in
from dataflows.connectors.ticklog import segments
from dataflows.connectors.venue_rest import RestConfig, VenueError, VenueRest
from dataflows.settings import DATABASE_OFF, Settings, SettingsError
from operators import native
from operators.lattice import iso
from packs.loader import PackError, load_packs

SPACE_MIN, SPACE_LOW = 1 << 30, 10 << 30
VENUE_TIMEOUT_S = 3.0
KAFKA_TIMEOUT_S = 5.0  # with TLS and SASL a first answer takes its time
SKEW_MS_MAX = 1_500  # a minute is sealed so long after its end
_DATABASE_TIMEOUT_S = 3
_TAIL_BYTES = 1 << 18


def all_checks(*, deep: bool) -> Iterator[Check]:
    """Yield every check; without a valid environment only what does not depend on it."""
    yield _inner_loops()
    try:
        settings = Settings.from_env()
    except SettingsError as error:
        yield Check("environment", "failed", str(error), "correct or unset the variables")
        return
    yield _environment(settings)
    yield _packs(settings)
    yield _disk(settings.data_dir)
    yield _binaries(settings)
    yield _database(settings, deep)
    yield _kafka(settings)
    yield from _venue(settings.rest_url)
    yield _log(settings.data_dir / "ticks")
    yield _topic(settings.data_dir / "topics" / TOPIC)
    yield _spools(settings.data_dir / SPOOL_DIRECTORY)


def _inner_loops() -> Check:
    """Check which form of inner loops and steps runs; both give the same bytes."""
    plain = native.missing()
    if not plain:
        return Check("inner loops", "ok", "compiled")
    which = "" if len(plain) == len(native.UNITS) else f" ({', '.join(plain)})"
    slower = "the same bytes, slower; a C compiler at installation makes it faster"
    return Check("inner loops", "ok", f"plain Python{which}: {slower}")


def _environment(settings: Settings) -> Check:
    changed = sorted(settings.model_fields_set)
    shown = ", ".join(f"ALPHA_{name.upper()}" for name in changed) or "nothing set"
    return Check("environment", "ok", shown)


def _packs(settings: Settings) -> Check:
    try:
        packs = load_packs(settings.feature_pack, settings.detector_pack, settings.universe)
    except PackError as error:
        return Check("packs", "failed", str(error), "alpha packs check FILE")
    found = f"features {packs.feature_pack}, detectors {packs.detector_pack}, {packs.config_hash}"
    if packs.warnings:
        return Check("packs", "warning", found, "; ".join(packs.warnings))
    return Check("packs", "ok", "; ".join((found, *packs.notes)))


def _disk(directory: Path) -> Check:
    """Check that the data directory, or the folder it would be made in, takes a file."""
    existing = next(p for p in (directory.absolute(), *directory.absolute().parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            free = shutil.disk_usage(existing).free
    except OSError as error:
        advice = "make it writable, or set ALPHA_DATA_DIR"
        return Check("data directory", "failed", f"{directory}: {error.strerror}", advice)
    found = f"{directory}: writable, {shown_size(free)} free"
    if free < SPACE_MIN:
        return Check("data directory", "failed", found, "free some space, or set ALPHA_DATA_DIR")
    if free < SPACE_LOW:
        advice = "a day of 60 assets takes about 1 GB; watch it"
        return Check("data directory", "warning", found, advice)
    return Check("data directory", "ok", found)


# --- PostgreSQL --------------------------------------------------------------------------------


def _binaries(settings: Settings) -> Check:
    """Check that there are programs for the embedded server; another server does without."""
    name = "postgres programs"
    try:
        return Check(name, "ok", str(find_binaries()))
    except PostgresError as error:
        needed = settings.database_url is None
        return Check(name, "failed" if needed else "warning", "none found", str(error))


def _database(settings: Settings, deep: bool) -> Check:
    """Check that the database in use answers; the embedded one may well be stopped."""
    if settings.database_url == DATABASE_OFF:
        return Check("database", "ok", "switched off by ALPHA_DATABASE_URL")
    try:
        if settings.database_url is not None:
            return _answer(settings.database_url, "the server of ALPHA_DATABASE_URL")
        return _embedded(server_of(settings.data_dir, quiet=True), deep)
    except (PostgresError, DsnError, psycopg.Error) as error:
        found = str(error).partition("\n")[0]
        advice = "start the server, or correct ALPHA_DATABASE_URL (`off` for none)"
        return Check("database", "failed", found, advice)


def _embedded(server: EmbeddedPostgres, deep: bool) -> Check:
    ran = server.pid() is not None
    if not ran and not deep:
        return Check("database", "ok", f"embedded, not running ({server.home}); --deep tries it")
    if not ran:
        server.start()
    try:
        return _answer(server.dsn(), f"embedded, {'running' if ran else 'starts'}")
    finally:
        if not ran:
            server.stop()


def _answer(url: str, what: str) -> Check:
    connection_settings(url)  # the library would quote what it cannot read
    with psycopg.connect(url, connect_timeout=_DATABASE_TIMEOUT_S) as connection:
        number = connection.info.server_version
        stored = _stored_baselines(connection)
    found = f"{what}: PostgreSQL {number // 10_000}.{number % 10_000}"
    return Check("database", "ok", f"{found}; {stored}" if stored else found)


def _stored_baselines(connection: Connection) -> str:
    """Say what a start without a recovery store could begin with; nothing where nothing is."""
    try:
        line = connection.execute(query("count_baselines")).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
        return ""  # not migrated yet, or not for this user
    assert line is not None
    assets, newest = line
    if not assets:
        return ""
    return f"baselines of {assets} assets, the newest {iso(round(newest.timestamp() * 1000))}"


# --- Kafka -------------------------------------------------------------------------------------


def _kafka(settings: Settings) -> Check:
    """Check that a broker answers, with the settings of TLS and SASL that are given."""
    if settings.kafka_bootstrap is None:
        return Check("kafka", "ok", "not set: events go to files")
    try:
        options = options_of(settings)
        with messages_on_stderr():
            Bus(settings.kafka_bootstrap, KAFKA_TIMEOUT_S, options=options).ensure_topics(())
    except (OptionsError, OSError) as error:
        return Check("kafka", "failed", str(error), "correct ALPHA_KAFKA_OPTIONS")
    except BusError as error:
        advice = "start the broker, or correct ALPHA_KAFKA_BOOTSTRAP and ALPHA_KAFKA_OPTIONS"
        return Check("kafka", "failed", str(error), advice)
    return Check("kafka", "ok", f"{settings.kafka_bootstrap} answers")


# --- the venue ---------------------------------------------------------------------------------


def _venue(url: str) -> Iterator[Check]:
    """Check that the venue answers and that our clock agrees with its own."""
    clock = SystemClock()
    config = RestConfig(url=url, timeout_s=VENUE_TIMEOUT_S, attempts=1)
    try:
        with VenueRest(config, clock) as venue:
            listed = len(venue.meta().listings)
            asked_ns = clock.now_ns()
            answer = orjson.loads(venue.fetch("exchangeStatus"))
            now_ms = (asked_ns + clock.now_ns()) // 2_000_000
    except VenueError as error:
        advice = "recording and live runs need it; replay and demo do not"
        yield Check("venue", "warning", f"{url}: {error}", advice)
        return
    yield Check("venue", "ok", f"{url}: {listed} assets listed")
    time_ms = answer.get("time") if isinstance(answer, dict) else None
    if not isinstance(time_ms, int):
        yield Check("clock", "warning", "the venue does not tell its time", "")
        return
    skew_ms = now_ms - time_ms
    found = f"{skew_ms:+d} ms from the venue's"
    if abs(skew_ms) > SKEW_MS_MAX:
        advice = "set the clock (NTP): minutes are closed by it"
        yield Check("clock", "warning", found, advice)
        return
    yield Check("clock", "ok", found)


# --- what is there -----------------------------------------------------------------------------


def _log(directory: Path) -> Check:
    if not directory.exists():
        return Check("tick log", "ok", f"{directory}: none yet")
    try:
        files = segments(directory)
        newest_ns = last_arrival_ns(directory) if files else None
        size = size_of(directory)
    except OSError as error:
        return Check("tick log", "failed", f"{directory}: {error.strerror}", "check its rights")
    last = "unknown" if newest_ns is None else iso(newest_ns // 1_000_000_000 * 1_000)
    found = f"{directory}: {len(files)} segments, {shown_size(size)}, last arrival {last}"
    return Check("tick log", "ok", found)


def _topic(path: Path) -> Check:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            newest = parse_event((file.read().splitlines() or [b""])[-1])
    except FileNotFoundError:
        return Check("event topic", "ok", f"{path}: none yet")
    except OSError as error:
        return Check("event topic", "failed", f"{path}: {error.strerror}", "check its rights")
    last = "none" if newest is None else newest["exchange_ts"]
    return Check("event topic", "ok", f"{path}: {shown_size(size)}, last event {last}")


def _spools(directory: Path) -> Check:
    """Check that nothing waits for a server; the job writes it when the server is back."""
    try:
        found = [
            f"{each.path}: {each.items} items, {shown_size(each.bytes)}"
            for each in waiting_in(directory)
        ]
    except OSError as error:
        return Check("spools", "failed", f"{directory}: {error.strerror}", "check its rights")
    if not found:
        return Check("spools", "ok", f"{directory}: nothing waits")
    advice = "bring the server back; the running or next job then writes them, in order"
    return Check("spools", "warning", "\n".join(found), advice)
