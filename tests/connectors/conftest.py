"""One PostgreSQL server for the session; a fresh database, or a schema of its own, for each test.

The server is that of ALPHA_DATABASE_URL (its user must be allowed to make databases), otherwise an
embedded one that ends with the session.
"""

import itertools
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from dataflows.connectors.embedded_postgres import EmbeddedPostgres
from dataflows.connectors.migrate import migrate
from packs.loader import load_packs

_numbers = itertools.count(1)
SMALL = {"shared_buffers": "32MB", "fsync": "off", "max_wal_size": "128MB"}


@dataclass(frozen=True)
class Place:
    """Where a test may keep tables."""

    dsn: str
    schema: str


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """A folder that every user can reach, unlike pytest's own under root."""
    folder = Path(tempfile.mkdtemp(prefix="alpha-pg-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def spare_data(server_folder: Path) -> Iterator[Path]:
    """Data of a second server that a test may start, kill and stop; it is stopped in between."""
    folder = server_folder / "spare"
    yield folder
    EmbeddedPostgres(folder, settings=SMALL).stop()


@pytest.fixture(scope="session")
def postgres_server(server_folder: Path) -> Iterator[str]:
    """Connection string of a server where databases may be made."""
    given = os.environ.get("ALPHA_DATABASE_URL")
    if given:
        yield given
        return
    server = EmbeddedPostgres(server_folder / "session", own=True, settings=SMALL).start()
    yield server.dsn()
    server.stop()


@pytest.fixture(scope="session")
def template(postgres_server: str) -> Iterator[str]:
    """A migrated database, to be copied: faster than applying the files for each test."""
    name = f"test_template_{uuid.uuid4().hex[:8]}"
    _run(postgres_server, "create database {}", name)
    migrate(make_conninfo(postgres_server, dbname=name))
    yield name
    _run(postgres_server, "drop database {}", name)


@pytest.fixture
def database(postgres_server: str, template: str) -> Iterator[str]:
    """Connection string of a new database with all tables, without month partitions."""
    yield from _database(postgres_server, template)


@pytest.fixture(scope="session")
def _shared_database(postgres_server: str, template: str) -> Iterator[str]:
    yield from _database(postgres_server, template)


@pytest.fixture
def empty_place(_shared_database: str) -> Place:
    """A schema that does not exist yet, in a database that other tests use, too."""
    return Place(_shared_database, f"place_{next(_numbers)}")


@pytest.fixture
def place(empty_place: Place) -> Place:
    """A schema of the test's own with all tables; several times faster than `database`."""
    migrate(empty_place.dsn, empty_place.schema)
    return empty_place


@pytest.fixture(scope="session")
def pack_columns() -> dict[str, str]:
    """Columns of the feature pack with their SQL types."""
    return {column.name: column.type for column in load_packs().features.stored}


def _database(server: str, template: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex[:8]}_{next(_numbers)}"
    _run(server, "create database {} template {}", name, template)
    yield make_conninfo(server, dbname=name)
    _run(server, "drop database {} with (force)", name)


def _run(server: str, text: str, *names: str) -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL(text).format(*map(sql.Identifier, names)))
