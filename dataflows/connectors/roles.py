"""Makes the roles of `sql/roles/roles.sql` and gives them what they may do in a schema.

Rules of this file: the text is that of the file, which a database administrator can run as it is;
one transaction under the lock of the schema, so that nobody sees a role without its rights.
Build plan 22.1.
"""

from __future__ import annotations

from importlib.resources import files

from psycopg import sql

from dataflows.connectors.migrate import open_session, query

ROLES = (
    *("alpha_ingest", "alpha_builder", "alpha_detector"),
    *("alpha_curator", "alpha_reader", "alpha_ops"),
)
# Roles belong to the server, not to a database: whoever makes them in another one waits, too.
_EVERYWHERE = "roles of every schema"


def roles_text() -> str:
    """Return the text that makes the roles; unqualified names mean the schema on the path."""
    return files("sql.roles").joinpath("roles.sql").read_text()


def grant_roles(dsn: str, schema: str = "public") -> tuple[str, ...]:
    """Make the roles that are missing and set what all may do in a migrated schema; return them.

    The user must be a superuser, or own the tables and be allowed to make roles.
    """
    with open_session(dsn, schema) as connection, connection.transaction():
        connection.execute(query("lock_schema"), {"schema": _EVERYWHERE})
        connection.execute(query("lock_schema"), {"schema": schema})
        connection.execute(sql.SQL(roles_text()))
    return ROLES
