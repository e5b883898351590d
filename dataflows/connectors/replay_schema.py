"""A schema of a replay's own: made with a mark, filled under one configuration, replaced whole.

Rules of this file: only a schema that carries the mark, or that is empty, is ever written to or
dropped, so that a mistyped name cannot touch the live tables or anybody else's. Design 6.
"""

from __future__ import annotations

import re

from psycopg import sql

from dataflows.connectors.migrate import Connection, open_session, query

LIVE_SCHEMA = "public"
MARK = "tables of alpha replay"
_NAME = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,62}")


class SchemaError(Exception):
    """A schema that a replay may not use; the message says why and what to do."""


def check_schema_name(schema: str) -> None:
    """Raise `SchemaError` if it is no name for a schema of a replay."""
    if schema == LIVE_SCHEMA:
        raise SchemaError(
            f"--schema {schema}: found the schema of the live tables, which a replay never writes"
            " to; expected one of its own, such as `replay`"
        )
    if not _NAME.fullmatch(schema) or schema == "information_schema":
        raise SchemaError(
            f"--schema {schema!r}: expected a name of small letters, digits and _, up to 63 of"
            " them, that begins with no digit and not with pg_"
        )


def claim_schema(dsn: str, schema: str, config_hash: str, *, replace: bool) -> None:
    """Make sure of a schema for a replay under a configuration; its tables come by migration.

    replace : drop what an earlier replay left there. Raises `SchemaError` if it is somebody else's,
    or holds a replay under another configuration.
    """
    check_schema_name(schema)
    with open_session(dsn, schema) as connection, connection.transaction():
        connection.execute(query("lock_schema"), {"schema": schema})
        if _asked(connection, "schema_exists", schema) and not _asked(
            connection, "schema_is_empty", schema
        ):
            if _asked(connection, "schema_mark", schema) != MARK:
                raise SchemaError(
                    f"--schema {schema}: expected a schema that `alpha replay` has made, found"
                    " tables of something else; they are left alone, give another name"
                )
            if not replace:
                _assert_same_config(connection, schema, config_hash)
                return
            connection.execute(query("drop_schema").format(schema=sql.Identifier(schema)))
        if not _asked(connection, "schema_exists", schema):
            connection.execute(query("create_schema").format(schema=sql.Identifier(schema)))
        connection.execute(
            query("mark_schema").format(schema=sql.Identifier(schema), mark=sql.Literal(MARK))
        )


def count_rows(dsn: str, schema: str, tables: tuple[str, ...]) -> dict[str, int]:
    """Return how many rows the tables of a schema hold."""
    with open_session(dsn, schema) as connection:
        counted = {}
        for table in tables:
            row = connection.execute(
                query("count_rows").format(table=sql.Identifier(schema, table))
            ).fetchone()
            assert row is not None
            counted[table] = int(row[0])
    return counted


def _assert_same_config(connection: Connection, schema: str, config_hash: str) -> None:
    found = connection.execute(query("relation_exists"), {"name": "config_audit"}).fetchone()
    if found is None or not found[0]:
        return  # an earlier replay ended before it wrote anything
    newest = connection.execute(query("newest_config")).fetchone()
    if newest is not None and newest[0] != config_hash:
        raise SchemaError(
            f"--schema {schema}: expected rows made with configuration {config_hash}, found"
            f" {newest[0]}; give another name, or --replace to drop them"
        )


def _asked(connection: Connection, question: str, schema: str) -> object:
    row = connection.execute(query(question), {"schema": schema}).fetchone()
    return None if row is None else row[0]
