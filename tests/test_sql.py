"""The numbered files as text: numbers, style, comments, and the pack's columns."""

import re
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from dataflows.connectors.migrate import read_migrations
from dataflows.registry import read_comments, read_tables, without_literals
from packs.loader import load_packs
from packs.schema import FeaturePack

FILES = {f"{m.number:04d}_{m.name}.sql": m.text.decode() for m in read_migrations()}
QUERIES = {
    entry.name: entry.read_text()
    for entry in files("sql.queries").iterdir()
    if entry.name.endswith(".sql")
}
PACKS = [  # every one that is shipped, the first first
    FeaturePack.model_validate(yaml.safe_load(entry.read_text()))
    for entry in sorted(files("packs.features").iterdir(), key=lambda entry: entry.name)
    if entry.name.endswith(".yaml")
]
DOMAINS = {"timeframe": "text", "dq_verdict": "text", "event_class": "text"}
IDENTITY = {
    "asset_uid": "bigint",
    "exchange_ts": "timestamptz",
    "revision": "integer",
    "symbol": "text",
    "tf": "text",
    "extras_json": "jsonb",
}
TABLES = {
    *("features_snapshot", "market_snapshot", "anomaly_event", "suppression", "gap"),
    *("feature_registry", "detector_registry", "universe_registry", "config_audit"),
    *("universe_audit", "universe_deferral", "hotlist_move", "hotlist_state", "tier_move"),
    *("dead_letter", "baseline_state"),
    *("candle_bar", "backfill_job", "backfill_audit", "gap_reconciliation"),
    *("curator_runs", "insights", "config_proposals", "replay_results"),
}


def columns() -> dict[str, dict[str, str]]:
    """Columns by table with their base types."""
    tables = read_tables(FILES.values())
    return {
        table: {name: DOMAINS.get(kind, kind) for name, kind in types.items()}
        for table, types in tables.items()
    }


def comments() -> dict[str, str]:
    """Comments by table.column, those in force."""
    return read_comments(FILES.values())


def test_numbers_have_no_gaps() -> None:
    """0001, 0002, ... and every file that looks like a migration is one."""
    assert [int(name[:4]) for name in FILES] == list(range(1, len(FILES) + 1))
    present = {entry.name for entry in files("sql").iterdir() if entry.name.endswith(".sql")}
    assert present == set(FILES)


@pytest.mark.parametrize("name", [*FILES, *QUERIES])
def test_sql_is_lower_case(name: str) -> None:
    """Key words and names are lower case; quoted text is free."""
    text = without_literals({**FILES, **QUERIES}[name])
    assert text == text.lower()


def test_files_only_add() -> None:
    """Forward only: an applied table is never dropped, renamed or rewritten by a later file, but
    by the one that copies whole tables into partitioned ones, also not in the text of a block."""
    moves = {"0018_event_months.sql"}
    for name, text in FILES.items():
        words = without_literals(text)
        assert not re.search(r"\b(drop|rename|truncate|delete)\b|alter column", words), name
        if name not in moves:
            assert not re.search(r"'(drop|truncate|delete|alter)\b", text), name


def test_every_column_is_commented() -> None:
    """Each comment ends with [unit, where it comes from], and none is about a lost column."""
    expected = {f"{table}.{name}" for table, names in columns().items() for name in names}
    found = comments()
    assert set(columns()) >= TABLES
    assert set(found) == expected
    assert [name for name, text in found.items() if not re.search(r"\w.*\[.+, .+\]$", text)] == []


def test_pack_columns_are_the_tables_columns() -> None:
    """Every stored column of every feature pack has its column, of its type; no others are."""
    stored = {column.name: column.type for pack in PACKS for column in pack.stored}
    assert {column.name for column in load_packs().features.stored} <= stored.keys()
    assert columns()["features_snapshot"] == {**stored, **IDENTITY}


def test_comments_name_unit_and_pack() -> None:
    """The unit is that of the pack that first had the column."""
    found = comments()
    first = {column.name: (column, pack) for pack in PACKS[::-1] for column in pack.stored}
    for column, pack in first.values():
        comment = found[f"features_snapshot.{column.name}"]
        assert comment.endswith(f"[{column.unit}, pack {pack.feature_pack}]")


def test_every_file_is_read_whole() -> None:
    """As many columns are read as the files add: the reader of SQL understands all of them."""
    text = without_literals("\n".join(FILES.values()))
    bodies = re.findall(r"create table \w+ \(\n(.*?)\n\)", text, re.DOTALL)
    lines = [line for body in bodies for line in body.splitlines() if line.strip()]
    declared = len([line for line in lines if "primary key" not in line])
    known = sum(map(len, columns().values()))
    assert known == declared + len(re.findall(r"\badd column\b", text))


def test_no_query_without_a_user() -> None:
    """Each text in sql/queries is loaded by name somewhere in the code."""
    code = "".join(path.read_text() for path in Path(str(files("dataflows"))).rglob("*.py"))
    by_table = {f"merge_{table}.sql" for table in columns()}
    unused = {name for name in QUERIES if f'"{name.removesuffix(".sql")}"' not in code}
    assert unused <= by_table
