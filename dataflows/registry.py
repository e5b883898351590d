"""The columns a feature pack declares, as text: the data dictionary page and the SQL of new ones.

Rules of this file: pure, texts in and a text out; what the pack says is never said again here, and
what has no place in the pack (the key of a table, the columns of the market frame) is read from the
comments of the numbered SQL files; the same pack and files give the same bytes.
Build plan 12.2, 20.2, Appendix A.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from textwrap import wrap

from operators.quality import MEANINGS, VERDICTS
from packs.schema import (
    MINUTE_TF,
    TIMEFRAME_MIN,
    TIMEFRAMES,
    Column,
    FeaturePack,
    Normalised,
    RegisteredColumn,
    Timeframe,
)

ROWS_TABLE = "features_snapshot"
FRAMES_TABLE = "market_snapshot"
WIDTH = 98  # of prose on the page

# Transform -> y = g(x) and its inverse, both as psql and Python understand them. Numerics 2.
TRANSFORMS = {
    "log1p": ("ln(1 + x)", "exp(y) - 1"),
    "pow_3_8": ("power(x, 3.0 / 8)", "power(y, 8.0 / 3)"),
    "log": ("ln(x)", "exp(y)"),
    "asinh": ("asinh(x / d)", "d * sinh(y)"),
}
_FAMILIES = {
    "quality": "Data quality",
    "price": "Price, return, volatility",
    "flow": "Flow",
    "positioning": "Positioning",
    "perp": "Perpetuals",
    "liquidity": "Liquidity",
    "normalised": "Normalised: z and rank",
    "baseline": "Baselines",
    "flag": "Flags",
    "strength": "Relative strength",
    "membership": "Membership",
    "provenance": "Provenance",
    "market": "Market",
}
_FOLDS = {
    "first": "first known of the parts",
    "last": "that of the last part",
    "last_known": "last known of the parts",
    "min": "smallest of the parts",
    "max": "largest of the parts",
    "sum": "sum of the parts",
    "mean": "mean of the parts",
    "median": "median of the parts",
    "p95": "95th percentile of the parts",
}
_VERDICTS = {
    "ok": "No reason. Only such a row moves the baselines and can become an event.",
    "partial": "Usable with care: z is measured against baselines that stand still.",
    "stale": "Not to be believed: every z and q is NULL.",
}


# --- the numbered SQL files ----------------------------------------------------------------------


def read_tables(texts: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return name -> declared type of the columns of every table, in the order of declaration.

    texts : the numbered files, in order. It reads what is in this repository: one column a line in
    `create table`, and `alter table .. add column .., add column ..;`.

    >>> read_tables(["create table t (\\n  a bigint not null,\\n  primary key (a)\\n);",
    ...              "alter table t\\n  add column if not exists b text,\\n  add column c text[];"])
    {'t': {'a': 'bigint', 'b': 'text', 'c': 'text[]'}}
    """
    text = without_literals("\n".join(texts))
    tables: dict[str, dict[str, str]] = {}
    for table, body in re.findall(r"create table (\w+) \(\n(.*?)\n\)", text, re.DOTALL):
        lines = [line.strip().rstrip(",") for line in body.splitlines()]
        tables[table] = dict(
            _declared(line) for line in lines if line and not line.startswith("primary key")
        )
    for table, body in re.findall(r"alter table (\w+)\s+(add column [^;]+);", text):
        for part in re.split(r",\s*(?=add column)", body):
            declaration = re.sub(r"add column (if not exists )?", "", part)
            tables[table].update([_declared(declaration)])
    return tables


def read_comments(texts: Iterable[str]) -> dict[str, str]:
    """Return `table.column` -> its comment; of several, the last is in force.

    >>> read_comments(["comment on column t.a is 'one';\\ncomment on column t.a is\\n  'a''s';"])
    {'t.a': "a's"}
    """
    found = re.findall(
        r"""comment on column (\w+)\."?(\w+)"? is\s+'((?:[^']|'')*)';""", "\n".join(texts)
    )
    return {f"{table}.{name}": comment.replace("''", "'") for table, name, comment in found}


def without_literals(text: str) -> str:
    """Return SQL without its comments and quoted texts."""
    return re.sub(r"'(?:[^']|'')*'", "''", re.sub(r"--[^\n]*", "", text))


def _declared(declaration: str) -> tuple[str, str]:
    name, rest = declaration.split(maxsplit=1)
    return name.strip('"'), re.split(r" not null| constraint| check| default", rest)[0].strip()


def column_comment(column: RegisteredColumn, pack: str) -> str:
    """Return what the database says about a column: its formula, when it is NULL, unit and pack."""
    return f"{column.formula}; null: {column.when_null} [{column.unit}, pack {pack}]"


def migration(features: FeaturePack, texts: Sequence[str]) -> str:
    """Return the numbered file that is missing, empty if none is.

    It adds the stored columns that the files have not, and comments them and those whose words have
    changed since; a comment keeps the version of the pack that first had the column.
    texts : the numbered files there are, in order.
    """
    known = read_tables(texts)[ROWS_TABLE]
    said = read_comments(texts)
    new = [column for column in features.stored if column.name not in known]
    comments = []
    for column in features.stored:
        name = f"{ROWS_TABLE}.{column.name}"
        first = re.search(r", pack (v[\d.]+)\]$", said.get(name, ""))
        wanted = column_comment(column, first.group(1) if first else features.feature_pack)
        if said.get(name) != wanted:
            literal = wanted.replace("'", "''")
            comments.append(f"comment on column {name} is\n  '{literal}';")
    if not new and not comments:
        return ""
    lines = [
        f"-- Columns of feature pack {features.feature_pack} that the files before this one have"
        " not, and comments whose",
        "-- words have changed. Printed by `alpha packs ddl`.",
    ]
    if new:
        added = ",\n".join(f"  add column if not exists {c.name} {c.type}" for c in new)
        lines.append(f"alter table {ROWS_TABLE}\n{added};")
    return "\n".join([*lines, *comments]) + "\n"


# --- the page ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Group:
    """A declared column and the names under which the tables have it: a line of the page."""

    declared: Column
    names: tuple[RegisteredColumn, ...]


def groups(features: FeaturePack) -> list[Group]:
    """Return the registry, each name once, by the column that declares it; order of the pack."""
    declared = {column.name: column for column in features.columns}
    by_base = groupby(features.registry, key=lambda column: column.base)
    return [Group(declared[base], tuple(names)) for base, names in by_base]


def data_dictionary(features: FeaturePack, texts: Sequence[str]) -> str:
    """Return the page about every column, in Markdown.

    texts : the numbered SQL files, for the columns that no pack declares.
    """
    lines = [
        *_intro(features),
        *_names_section(features),
        *_null_section(features),
        *_key_section(texts),
    ]
    shown = [group for group in groups(features) if group.declared.status == "active"]
    for family in dict.fromkeys(group.declared.family for group in shown):
        lines += ["", f"## {_FAMILIES.get(family, family.capitalize())}", ""]
        lines += _column_table(features, [g for g in shown if g.declared.family == family])
        if family == "quality":
            lines += _reasons_section(features)
        if family == "baseline":
            lines += _transforms_section(features)
    lines += _trial_section(features)
    lines += _frame_section(texts)
    return "\n".join(lines) + "\n"


def _intro(features: FeaturePack) -> list[str]:
    return [
        "# Columns",
        "",
        *_paragraph(
            f"Feature pack `{features.feature_pack}`, revision {features.pack_rev}:"
            f" {len(features.stored)} columns of `{ROWS_TABLE}`. This page is printed by"
            " `alpha packs columns --markdown` from the feature pack, where each column is declared"
            " once; the tables, their comments and `feature_registry` say the same."
        ),
        "",
        *_paragraph(
            "A row is what is known of one asset at the close of one bar, and is named by that"
            " close: `exchange_ts` 09:30 on a 1m row stands for [09:29, 09:30) of exchange time."
            " Every asset has a row for every minute, also when nothing happened, and one for every"
            " full quarter of an hour and every full hour. An amendment replaces a row under the"
            " same key with a higher `revision`."
        ),
    ]


def _names_section(features: FeaturePack) -> list[str]:
    example = next((g for g in groups(features) if len(g.names) == len(TIMEFRAMES)), None)
    named = [] if example is None else [f"`{c.name}` on {c.tfs[0]} rows" for c in example.names]
    return [
        "",
        "## Names, timeframes, numbers",
        "",
        *_item(
            "A name ends in its window: `s_30` is 30 seconds, `m_5` five minutes, `h_1` an hour. A"
            " column whose window follows the timeframe has a name on each, and one line in the"
            f" tables below: {', '.join(named)}. A column without a window in its name has that"
            " name on every timeframe; its *window* is then that on 1m rows."
        ),
        *_item("**Expressions of detectors use the names of 1m rows on every timeframe.**"),
        *_item(
            "A 15m row is made of its fifteen 1m rows, a 1h row of its four 15m rows: the *parts*."
            " *15m, 1h* says how; *same formula* is the formula over bars of that length, and a"
            " name is that of the column that says the same there."
        ),
        *_item(
            "*Normalised as* is the baseline that measures a column, see"
            " [below](#what-is-behind-a-z)."
        ),
        *_item(
            "*quote* is the currency of the prices; a *ratio* of 0.01 is 1 %, a *bp* a hundredth"
            " of that; a *sigma* is one scale of a baseline; a *rank* lies between 0 and 1."
        ),
        *_item(
            "Every double precision is finite and rounded once, to 12 significant digits; a column"
            " computed from other columns uses their rounded values. Sums are correctly rounded and"
            " logarithms are our own, so one log gives the same digits on every machine."
        ),
        *_item("Times are UTC; a time in ms is an integer."),
    ]


def _null_section(features: FeaturePack) -> list[str]:
    return [
        "",
        "## NULL",
        "",
        *_paragraph(
            "NULL means *not known* and is never 0; *NULL when* says when. On a timeframe whose"
            " rows do not carry a column it is NULL, too. *Warm-up* is a baseline with fewer than"
            f" {features.robust.min_samples} samples, *stale* a row with that verdict. On 15m and"
            " 1h rows a mean, median or percentile of the parts is NULL when"
            f" {features.rollup.stale_share:.0%} of the parts or more do not know it; a sum when no"
            " part does, or one that knows its volume does not."
        ),
    ]


def _key_section(texts: Sequence[str]) -> list[str]:
    return [
        "",
        "## Key",
        "",
        "Part of every row, whatever the pack.",
        "",
        *_sql_table(ROWS_TABLE, "identity", texts),
    ]


def _reasons_section(features: FeaturePack) -> list[str]:
    forgiven = _codes(features.rollup.forgiven)
    lines = ["", "`dq_status` is the worst verdict of the reasons in `dq_reasons`:", ""]
    lines += _table("verdict | what it means", ((code(v), text) for v, text in _VERDICTS.items()))
    lines += ["", "The reasons, in the order in which a row lists them:", ""]
    lines += _table(
        "reason | verdict | what it says",
        ((code(reason), VERDICTS[reason], _prose(MEANINGS[reason])) for reason in VERDICTS),
    )
    if forgiven:
        lines += ["", f"A minute whose only reason is {forgiven} counts as ok in `minutes_not_ok`."]
    return lines


def _transforms_section(features: FeaturePack) -> list[str]:
    """Say which g is behind each z, and how to get back from the baseline to the raw unit."""
    used = dict.fromkeys(entry.transform for entry in features.normalised)
    return [
        "",
        "### What is behind a z",
        "",
        *_paragraph(
            "A value x is made symmetric by a fixed transform y = g(x), and y is compared with a"
            " location m and a scale s that follow it: z = (y - m) / s, with m and s as they are"
            " after this bar. A q is the share of the past below x, ties counting half. Only rows"
            " whose verdict is ok move a baseline; every timeframe has its own."
        ),
        "",
        *_paragraph(
            "`b_mean_*` is m and `b_scale_*` is s, **in transformed units**; `b_divisor_*` is the d"
            " of asinh. The inverse leads back to the unit of x: m to the usual value, m + 3 s to"
            " the value whose z is about 3 and, for a signed feature, m - 3 s to that whose z is"
            " about -3. As PostgreSQL writes them:"
        ),
        "",
        *_table(
            "g | y = | x =",
            ((code(name), code(TRANSFORMS[name][0]), code(TRANSFORMS[name][1])) for name in used),
        ),
        *_inverse_example(features),
        "",
        *_table(
            "feature | x | g | columns, as named on 1m rows | smallest s | smallest d | rows",
            (_feature_cells(features, entry) for entry in features.normalised),
        ),
        "",
        "Half of what a baseline knows is forgotten in, counted in bars that moved it:",
        "",
        *_table("baselines | location | scale, divisor, rank", _memory(features)),
    ]


def _memory(features: FeaturePack) -> Iterator[tuple[str, ...]]:
    for tf in TIMEFRAMES:
        decay = features.decay.of(tf)
        yield f"{tf} rows", _half_life(decay.a_m, tf), _half_life(decay.a_s, tf)
    for entry in features.normalised:
        if entry.decay is not None:
            tf = "1h" if entry.sampled == "hourly" else MINUTE_TF
            when = ", on full hours only" if entry.sampled == "hourly" else ""
            decay = entry.decay
            yield (
                f"{code(entry.feature)}{when}",
                _half_life(decay.a_m, tf),
                _half_life(decay.a_s, tf),
            )


def _inverse_example(features: FeaturePack) -> list[str]:
    entry = next((e for e in features.normalised if e.mean and e.scale and not e.divisor), None)
    if entry is None:
        return []
    inverse = TRANSFORMS[entry.transform][1]
    usual = inverse.replace("y", f"{entry.mean}")
    high = inverse.replace("y", f"{entry.mean} + 3 * {entry.scale}")
    return [
        "",
        f"The usual `{entry.source}`, and the one whose `{entry.z}` is about 3:",
        "",
        "```sql",
        f"select symbol, {usual} as usual, {high} as at_3",
        f"from {ROWS_TABLE} where tf = '{MINUTE_TF}' order by exchange_ts desc limit 10;",
        "```",
    ]


def _feature_cells(features: FeaturePack, entry: Normalised) -> tuple[str, ...]:
    written = (entry.z, entry.q, entry.mean, entry.scale, entry.divisor)
    sources = dict.fromkeys(features.names(tf)[entry.source] for tf in entry.tfs)
    return (
        code(entry.feature),
        "<br>".join(map(code, sources)),
        code(entry.transform),
        "<br>".join(code(name) for name in written if name is not None),
        f"{entry.s_min:g}",
        "" if entry.d_min is None else f"{entry.d_min:g}",
        ", ".join(entry.tfs),
    )


def _trial_section(features: FeaturePack) -> list[str]:
    shown = [group for group in groups(features) if group.declared.status == "shadow"]
    if not shown:
        return []
    return [
        "",
        "## On trial",
        "",
        *_paragraph(
            "Computed into `extras_json`; no detector may use them. In the pack they are proposed"
            " for they get columns of their own, or go."
        ),
        "",
        *_table(
            "column | family | proposed for | type, unit | window | formula | inputs | NULL when",
            (
                (
                    code(column.name),
                    column.family,
                    column.pack_proposed or "",
                    f"{column.type}<br>{_prose(column.unit)}",
                    column.window,
                    _prose(column.formula),
                    _codes(column.inputs),
                    _prose(column.when_null),
                )
                for group in shown
                for column in group.names
            ),
        ),
    ]


def _frame_section(texts: Sequence[str]) -> list[str]:
    return [
        "",
        "## Market frame",
        "",
        f"One row of `{FRAMES_TABLE}` per timeframe and bar, over all covered assets.",
        "",
        *_sql_table(FRAMES_TABLE, None, texts),
    ]


# --- tables of the page --------------------------------------------------------------------------

_COLUMN_HEAD = (
    "column | rows | window | type, unit | formula | 15m, 1h | inputs | NULL when | normalised as"
)


def _column_table(features: FeaturePack, shown: Sequence[Group]) -> list[str]:
    return _table(_COLUMN_HEAD, (_column_cells(features, group) for group in shown))


def _column_cells(features: FeaturePack, group: Group) -> tuple[str, ...]:
    first = group.names[0]
    return (
        "<br>".join(code(column.name) for column in group.names),
        "<br>".join(" ".join(column.tfs) for column in group.names),
        "<br>".join(column.window for column in group.names),
        f"{first.type}<br>{_prose(first.unit)}",
        _prose(first.formula),
        _longer_bars(group),
        _codes(first.inputs),
        _prose(first.when_null),
        _normalised_as(features, group),
    )


def _longer_bars(group: Group) -> str:
    """Say how a column gets onto 15m and 1h rows, and which other columns say the same there."""
    column = group.declared
    if column.rollup is None:
        return ""
    own = {each.name for each in group.names}
    longer = [(tf, column.name_at(tf)) for tf in TIMEFRAMES[1:]]
    others = ", ".join(f"`{name}` on {tf}" for tf, name in longer if name and name not in own)
    if column.rollup == "alias":
        words = ""
    elif column.rollup == "recompute":
        given = column.formula_at if column.formula_at != column.formula else None
        words = "same formula" if given is None else _prose(given)
    else:
        words = _FOLDS[column.rollup]
    return "; ".join(part for part in (words, others) if part)


def _normalised_as(features: FeaturePack, group: Group) -> str:
    """Name the features whose x a column is, with the timeframes if it is not all of its own."""
    found: dict[str, list[Timeframe]] = {}
    for entry in features.normalised:
        for column in group.names:
            for tf in column.tfs:
                of_tf = tf in entry.tfs and features.names(tf).get(entry.source) == column.name
                if entry.z is not None and of_tf:
                    found.setdefault(entry.feature, []).append(tf)
    tfs = [tf for column in group.names for tf in column.tfs]
    return "<br>".join(
        code(feature) + ("" if on == tfs else f" ({', '.join(on)})")
        for feature, on in found.items()
    )


def _sql_table(table: str, source: str | None, texts: Sequence[str]) -> list[str]:
    """Tell of a table's columns by their comments `text [unit, source]`; None: every source."""
    comments = read_comments(texts)
    rows = []
    for name, kind in read_tables(texts)[table].items():
        match = re.fullmatch(r"(.+) \[(.+), (.+?)\]", comments.get(f"{table}.{name}", ""))
        if match and source in (None, match.group(3)):
            what, unit = match.group(1), match.group(2)
            rows.append((code(name), f"{kind}<br>{_prose(unit)}", _prose(what)))
    return _table("column | type, unit | what it says", rows)


def _table(head: str, rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table; a column in which no row has anything is left out."""
    titles, cells = head.split(" | "), [*rows]
    kept = [i for i in range(len(titles)) if any(row[i] for row in cells)]
    lines = [titles, ["---"] * len(titles), *cells]
    return ["| " + " | ".join(line[i] for i in kept) + " |" for line in lines]


def code(text: str) -> str:
    """Return a text as a code span that may stand in a table.

    >>> code("ok|partial")
    '`ok\\\\|partial`'
    """
    return "`" + text.replace("|", "\\|") + "`"


def _codes(names: Iterable[str]) -> str:
    return ", ".join(map(code, names))


def _prose(text: str) -> str:
    """Return words that may stand in a table, with names of columns and detectors as code."""
    marked = re.sub(r"[a-z][a-z0-9.]*_[a-z0-9_]*[a-z0-9]", lambda m: f"`{m.group()}`", text)
    return marked.replace("|", "\\|").replace("<", "&lt;")


def _half_life(rate: float, tf: Timeframe) -> str:
    """Return after how long half is forgotten, for a rate per bar.

    >>> _half_life(0.000962241166216571, "1m")
    '12 h'
    """
    bars = math.log(0.5) / math.log1p(-rate)
    return f"{bars * TIMEFRAME_MIN[tf] / 60:.4g} h"


def _paragraph(text: str) -> list[str]:
    return wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _item(text: str) -> list[str]:
    return [
        *wrap(
            text,
            WIDTH,
            initial_indent="- ",
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    ]
