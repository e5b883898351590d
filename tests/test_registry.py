"""The data dictionary page and the generated SQL: they say what the pack says, and all of it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from dataflows.registry import (
    TRANSFORMS,
    data_dictionary,
    groups,
    migration,
    read_comments,
    read_tables,
)
from operators.formulas import elementary
from operators.quality import VERDICTS
from packs.loader import load_packs
from packs.schema import FeaturePack

ROOT = Path(__file__).parents[1]
PACK = load_packs().features
NUMBERED = sorted((ROOT / "sql").glob("*.sql"))
TEXTS = [path.read_text() for path in NUMBERED]
PAGE = data_dictionary(PACK, TEXTS)
G: dict[str, Callable[[float, float], float]] = {
    "log1p": lambda x, _: elementary.log1p(x),
    "pow_3_8": lambda x, _: elementary.pow_3_8(x),
    "log": lambda x, _: elementary.log(x),
    "asinh": lambda x, d: elementary.asinh(x / d),
}
SQL_FUNCTIONS = {
    "ln": math.log,
    "power": pow,
    "exp": math.exp,
    "sinh": math.sinh,
    "asinh": math.asinh,
}


def changed(**columns: dict[str, Any] | None) -> FeaturePack:
    """The shipped pack as v1.1 with columns changed, added (by a name it has not) or gone."""
    text = files("packs.features").joinpath("v1.0.yaml").read_text()
    raw = yaml.safe_load(text) | {"feature_pack": "v1.1"}
    declared = {column["name"]: column for column in raw["columns"]}
    for name, change in columns.items():
        if change is None:
            del declared[name]
        else:
            declared[name] = declared.get(name, {"name": name}) | change
    return FeaturePack.model_validate(raw | {"columns": list(declared.values())})


def tables(page: str) -> list[list[list[str]]]:
    """The tables of a page as cells, head first; an escaped bar is part of a cell."""
    blocks = re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)
    return [
        [re.split(r" (?<!\\)\| ", line[2:-2]) for line in block.splitlines()] for block in blocks
    ]


def line_of(name: str) -> dict[str, str]:
    """The page's line of a column, by the head of its table."""
    for head, _, *lines in tables(PAGE):
        for cells in lines:
            if f"`{name}`" in cells[0].split("<br>") and "rows" in head:
                return dict(zip(head, cells, strict=True))
    raise AssertionError(name)


def test_the_page_is_that_of_the_pack() -> None:
    """docs/columns.md is the output of `alpha packs columns --markdown`, to the byte."""
    assert (ROOT / "docs" / "columns.md").read_text() == PAGE


def test_every_column_has_its_place_on_the_page() -> None:
    """Each name stands in the first cell of exactly one line, on trial or not."""
    named = [
        name
        for head, _, *lines in tables(PAGE)
        if head[0] == "column" and "formula" in head
        for cells in lines
        for name in re.findall(r"`(\w+)`", cells[0])
    ]
    assert sorted(named) == sorted(column.name for column in PACK.registry)


def test_tables_are_tables() -> None:
    """Every line of a table has a cell for each title; a bar in a unit does not start one."""
    assert len(tables(PAGE)) > 12
    for head, rule, *lines in tables(PAGE):
        assert set(rule) == {"---"}
        assert {len(cells) for cells in lines} == {len(head)}, head


def test_one_line_tells_all_of_a_column() -> None:
    """Names, timeframes and windows of a column that has three of each stand side by side."""
    assert line_of("v_total_m_15") == {
        "column": "`v_total_m_1`<br>`v_total_m_15`<br>`v_total_h_1`",
        "rows": "1m<br>15m<br>1h",
        "window": "m_1<br>m_15<br>h_1",
        "type, unit": "double precision<br>quote",
        "formula": "sum of px * sz",
        "15m, 1h": "sum of the parts",
        "inputs": "`trades`",
        "NULL when": "never; 0 without prints",
        "normalised as": "`vol`",
    }


@pytest.mark.parametrize(
    ("name", "title", "cell"),
    [
        ("ret_m_5", "15m, 1h", "`ret_m_15` on 15m, `ret_h_1` on 1h"),
        ("ret_h_1", "15m, 1h", "`mid_close` against the `mid_close` one bar before; `ret_m_15` on"),
        ("oi_close", "15m, 1h", "last known of the parts"),
        ("z_vol_m_1", "15m, 1h", "same formula"),
        ("minutes_missing", "15m, 1h", ""),
        ("minutes_missing", "rows", "15m 1h"),
        ("basis_bp_m_1", "normalised as", "`basis` (15m, 1h)"),
        ("basis_bp_m_5", "normalised as", "`basis`"),
        ("dfunding_h_1", "normalised as", ""),
        ("dq_status", "type, unit", r"text<br>ok\|partial\|stale"),
        ("is_vol_spike_m_1", "formula", "trigger of `spike.vol_spike_m_1` on a minute"),
        ("illiquidity_hit", "formula", "`v_total_m_1` &lt; `v_min` or"),
    ],
)
def test_cells_of_the_page(name: str, title: str, cell: str) -> None:
    """What is the same elsewhere, folded, on some timeframes only, or needs an escape."""
    found = line_of(name)[title]
    assert found.startswith(cell)
    assert bool(found) is bool(cell)


def test_the_page_explains_every_reason_and_trial() -> None:
    """All reason codes with their verdicts in their order; shadow columns with their pack."""
    found = next(lines for head, _, *lines in tables(PAGE) if head[0] == "reason")
    assert [(cells[0].strip("`"), cells[1]) for cells in found] == list(VERDICTS.items())
    trial = PAGE.split("## On trial")[1].split("\n## ")[0]
    for column in PACK.registry:
        shown = f"| `{column.name}` | {column.family} | {column.pack_proposed} |" in trial
        assert shown is (column.status == "shadow")
    assert "On trial" not in data_dictionary(
        changed(microprice_drift_s_30=None, rs_dispersion_m_5=None), TEXTS
    )


def test_the_page_takes_its_numbers_from_the_pack() -> None:
    """Half-lives, floors and shares are those of the pack that is shown."""
    assert "| 15m rows | 12 h | 24 h |" in PAGE
    assert "| `dfunding`, on full hours only | 168 h | 168 h |" in PAGE
    assert "when 30%\nof the parts or more" in PAGE
    raw = PACK.model_dump(by_alias=True)
    raw["decay"]["15m"]["a_m"] = raw["decay"]["15m"]["a_s"]
    raw["rollup"]["stale_share"] = 0.4
    other = data_dictionary(FeaturePack.model_validate(raw), TEXTS)
    assert "| 15m rows | 24 h | 24 h |" in other
    assert "when 40%\nof the parts or more" in other


@pytest.mark.parametrize("transform", sorted(G))
def test_transforms_and_their_inverses(transform: str) -> None:
    """The g of the page is the one the baselines use, and its inverse leads back to x."""
    assert set(TRANSFORMS) == set(G)
    texts = TRANSFORMS[transform]
    for x in (1e-6, 0.02, 1.0, 37.5, 4e5):
        names = {**SQL_FUNCTIONS, "x": x, "d": 0.7}
        y = eval(texts[0], {"__builtins__": {}}, names)
        assert y == pytest.approx(G[transform](x, 0.7), rel=1e-12)
        assert eval(texts[1], {"__builtins__": {}}, {**names, "y": y}) == pytest.approx(x, rel=1e-9)


def test_groups_keep_the_registry() -> None:
    """The groups are the registry cut at its bases, nothing lost and nothing moved."""
    assert [column for group in groups(PACK) for column in group.names] == list(PACK.registry)
    assert all(column.base == g.declared.name for g in groups(PACK) for column in g.names)


# --- SQL -----------------------------------------------------------------------------------------


def test_the_numbered_files_say_what_the_pack_says() -> None:
    """No column is missing and no comment is out of date: `alpha packs ddl` has nothing to add."""
    assert migration(PACK, TEXTS) == ""


def test_a_new_column_and_new_words() -> None:
    """A later pack: its column is added under its version, changed words keep the old version."""
    pack = changed(
        tick_rate_m_1={
            "family": "flow",
            "type": "double precision",
            "unit": "prints/s",
            "window": "m_1",
            "formula": "trade_count_m_1 / 60, the venue's",
            "inputs": ["trade_count_m_1"],
            "when_null": "trade_count_m_1 is",
            "rollup": "mean",
            "at": ["tick_rate_m_15", "tick_rate_h_1"],
        },
        v_total_m_1={"when_null": "never"},
    )
    text = migration(pack, TEXTS)
    assert text.splitlines()[2:6] == [
        "alter table features_snapshot",
        "  add column if not exists tick_rate_m_1 double precision,",
        "  add column if not exists tick_rate_m_15 double precision,",
        "  add column if not exists tick_rate_h_1 double precision;",
    ]
    said = read_comments([text])
    name = "features_snapshot.tick_rate_m_1"
    assert said[name] == (
        "trade_count_m_1 / 60, the venue's; null: trade_count_m_1 is [prints/s, pack v1.1]"
    )
    assert said["features_snapshot.v_total_m_1"] == "sum of px * sz; null: never [quote, pack v1.0]"
    assert sorted(key for key in said if "v_total" not in key and "tick_rate" not in key) == []
    assert migration(pack, [*TEXTS, text]) == ""


def test_a_column_on_trial_gets_no_column() -> None:
    """A shadow column is in the registry and not in the tables, until it is active."""
    assert "microprice_drift_s_30" not in read_tables(TEXTS)["features_snapshot"]
    active = changed(microprice_drift_s_30={"status": "active"})
    assert "add column if not exists microprice_drift_s_30 double" in migration(active, TEXTS)


def test_a_column_that_goes_is_kept_in_the_table() -> None:
    """Files only add: a pack with fewer columns needs no file."""
    assert migration(changed(is_hot=None), TEXTS) == ""


def test_tables_are_read_as_they_are_written() -> None:
    """Quoted names, array types, constraints, several columns in one alter, and in many files."""
    first = """
create table a (
  -- widest first
  id bigint not null,
  "window" text[] not null constraint words check (true),

  primary key (id, "window")
) partition by list (id);
create table b (
  primary_source text
);
comment on column a."window" is 'it''s; a list [words, here]';
"""
    second = "alter table a add column more double precision,\n  add column if not exists z text;"
    assert read_tables([first, second]) == {
        "a": {"id": "bigint", "window": "text[]", "more": "double precision", "z": "text"},
        "b": {"primary_source": "text"},
    }
    assert read_comments([first]) == {"a.window": "it's; a list [words, here]"}
