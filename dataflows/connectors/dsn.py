"""Connection strings of PostgreSQL, read without ever showing what may be a password.

Rules of this file: libpq's own messages quote what they could not read, and a password that is not
percent-encoded can end up as host, port or name of the database; so whatever does not look as it
should is refused here, before the library can tell anybody.
"""

from __future__ import annotations

import re

import psycopg
from psycopg.conninfo import conninfo_to_dict

_URL = re.compile(r"postgres(ql)?://")
_PORTS = re.compile(r"\d*(,\d*)*")


# What a server says that will take the connection later.
_FOR_NOW = re.compile(r"starting up|shutting down|recovery|too many|connection slots|not yet")
_ASK_S = 3


class DsnError(Exception):
    """A connection string is of no use; the message does not show it."""


def connection_settings(dsn: str) -> dict[str, str]:
    """Return the settings of a connection string by libpq's names. Raises `DsnError`."""
    try:
        found = {name: str(value) for name, value in conninfo_to_dict(dsn).items()}
    except psycopg.Error:
        found = None
    if found is None or _is_torn(dsn, found):
        raise DsnError(
            "the connection string of PostgreSQL cannot be read: expected"
            " postgresql://USER:PASSWORD@HOST:PORT/NAME, with % codes for / : @ % in a password"
            " (%2F %3A %40 %25), or NAME=VALUE words with quotes where a value has spaces; what was"
            " found is not shown, it may hold a password"
        )
    return found


def assert_welcome(dsn: str) -> None:
    """Ask a server once whether it takes a connection; raise `DsnError` if it refuses for good.

    A wrong password or a database that is not there gets no better by waiting; a server that does
    not answer, or is about to, does.
    """
    try:
        psycopg.connect(dsn, connect_timeout=_ASK_S).close()
    except psycopg.OperationalError as error:
        said = re.search(r"FATAL: +(.+)", str(error))
        if said is not None and not _FOR_NOW.search(said.group(1)):
            raise DsnError(f"PostgreSQL refuses the connection: {said.group(1)}") from None


def _is_torn(dsn: str, found: dict[str, str]) -> bool:
    """Tell whether a password was cut at one of its own characters."""
    if not _PORTS.fullmatch(found.get("port", "")):
        return True
    if not _URL.match(dsn):
        return False
    return any("@" in found.get(name, "") for name in ("host", "dbname"))
