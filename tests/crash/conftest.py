"""Servers, and a stage for runs that are killed."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dataflows.connectors.embedded_postgres import EmbeddedPostgres

sys.path.insert(0, str(Path(__file__).parent))  # its modules are also programs of their own
from matrix import SMALL, Stage

if TYPE_CHECKING:
    from conftest import KafkaServer


@pytest.fixture(scope="session")
def stage(kafka_server: KafkaServer) -> Iterator[Stage]:
    """A log and what an uninterrupted run makes of it, with a database and a broker."""
    folder = Path(tempfile.mkdtemp(prefix="alpha-crash-"))
    folder.chmod(0o755)  # every user can reach it, unlike pytest's own under root
    server = EmbeddedPostgres(folder / "postgres", own=True, settings=SMALL).start()
    made = Stage(folder, server.dsn(), kafka_server.bootstrap)
    yield made
    made.close()
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)
