"""A longer bar is folded from its parts: what each column becomes, and what the bar is worth.

1m   . . . . . . . . . . . . . . .     15 parts, the last one has the label of the bar
15m  ------------- + ------------- + ------------- + -------------     4 parts
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.lattice import HOUR_MS, MINUTE_MS
from operators.normal_state import NormaliseState
from operators.normalize import Normalize
from operators.quality import VERDICTS, grade
from operators.records import Bar, BarItem, Columns, Phase, Row
from operators.rollup import Folder, Part
from packs.loader import load_packs
from packs.schema import TIMEFRAMES

PACKS = load_packs()
FEATURES = PACKS.features
FOLDER = Folder(FEATURES)
STEP = Normalize(PACKS)
NAMES = {tf: FEATURES.names(tf) for tf in TIMEFRAMES}
NINE = 20_000 * 24 * HOUR_MS + 9 * HOUR_MS  # 09:00, label of the bar that the folds below close

FOLD_OF = {c.name: c.rollup for c in FEATURES.columns if c.name in FOLDER.layout}
OF_FOLD = {
    fold: [name for name in FOLDER.layout if FOLD_OF[name] == fold]
    for fold in ("first", "last", "last_known", "min", "max", "sum", "mean", "median", "p95")
}
INTEGERS = ("dropped_ticks", "duplicate_ticks", "trade_count_m_1")
# Columns whose NULL says something about the bar as a whole.
TELLING = ("close", "v_total_m_1", "trade_count_m_1", "obi_top5_mean_m_1")


def twelve(x: Fraction | float | int) -> float:
    """Return the nearest double, then 12 digits, no negative zero."""
    return float(f"{float(x):.12g}") + 0.0


def exact_sum(values: Sequence[float]) -> float:
    """Return the sum of doubles without any error, at 12 digits."""
    return twelve(sum((Fraction(value) for value in values), Fraction(0)))


# --- one fold ------------------------------------------------------------------------------------


def part(
    minute: int, reasons: Sequence[str] = (), given: Columns | None = None, **columns: Any
) -> Part:
    """Return minute 1 to 15 of the bar as a part; what is not said is a calm minute."""
    status, ordered = grade(reasons)
    row: Columns = {
        **dict.fromkeys(NAMES["1m"]),
        "dq_status": status,
        "dq_reasons": ordered,
        "close": 100.0,
        "v_total_m_1": 10.0,
        "trade_count_m_1": 3,
        "obi_top5_mean_m_1": 0.5,
        **(given or {}),
        **columns,
    }
    return FOLDER.part_of_minute(NINE - (15 - minute) * MINUTE_MS, row)


def quarter(
    index: int,
    given: Columns | None = None,
    *,
    not_ok: int = 0,
    missing: int = 0,
    **columns: Any,
) -> Part:
    """Return quarter 1 to 4 of the hour as a part."""
    row: Columns = {
        **dict.fromkeys(NAMES["15m"]),
        "dq_reasons": [],
        "minutes_not_ok": not_ok,
        "minutes_missing": missing,
        "close": 100.0,
        "v_total_m_1": 10.0,
        "trade_count_m_1": 3,
        "obi_top5_mean_m_1": 0.5,
        **(given or {}),
        **columns,
    }
    return FOLDER.part_of_bar(NINE - (4 - index) * 15 * MINUTE_MS, row)


def fold(parts: Sequence[Part], expected: int = 15, part_min: int = 1) -> Columns:
    """Return the folded columns."""
    return FOLDER.fold(parts, NINE, expected=expected, part_min=part_min)[0]


def reasons_of(parts: Sequence[Part], expected: int = 15, part_min: int = 1) -> set[str]:
    """Return the reasons of the bar."""
    found = FOLDER.fold(parts, NINE, expected=expected, part_min=part_min)[1]
    assert len(found) == len(set(found))
    return set(found)


def of_column(name: str, values: Sequence[Any], expected: int = 15) -> Any:
    """Return the fold of one column, given one value per part, the last part last."""
    first = 16 - len(values)
    parts = [part(first + k, given={name: value}) for k, value in enumerate(values)]
    return fold(parts, expected)[name]


def test_every_fold_is_in_use_and_every_part_has_every_folded_column() -> None:
    """The layout is that of the pack; what is on trial is not folded."""
    assert all(OF_FOLD.values())
    assert not {"microprice_drift_s_30", "rs_dispersion_m_5"} & set(FOLDER.layout)
    for one in (part(1), quarter(1)):
        assert len(msgspec.msgpack.decode(one.values)) == len(FOLDER.layout)


@pytest.mark.parametrize("name", ["open", "oi_open"])
def test_first_is_the_first_known(name: str) -> None:
    """A minute that knows nothing at the start does not take it away."""
    assert of_column(name, [1.0, 2.0, 3.0]) == 1.0
    assert of_column(name, [None, 2.0, 3.0]) == 2.0
    assert of_column(name, [None, None]) is None


@pytest.mark.parametrize("name", OF_FOLD["last_known"])
def test_last_known_is_the_newest_known(name: str) -> None:
    """Close and open interest stand until something newer is known."""
    assert of_column(name, [1.0, 2.0, 3.0]) == 3.0
    assert of_column(name, [1.0, 2.0, None]) == 2.0
    assert of_column(name, [None, None]) is None


@pytest.mark.parametrize("name", OF_FOLD["last"])
def test_last_is_that_of_the_last_minute_known_or_not(name: str) -> None:
    """What is true at the close: the mid, levels, ages, funding."""
    assert of_column(name, [1, 2, 3]) == 3
    assert of_column(name, [1, 2, None]) is None
    parts = [part(k, given={name: k}) for k in range(1, 15)]
    assert fold(parts)[name] is None, "the last part has not the label of the bar"


@pytest.mark.parametrize(("fold_of", "wanted"), [("min", 1.0), ("max", 3.0)])
def test_the_extremes_of_what_is_known(fold_of: str, wanted: float) -> None:
    """NULL does not count."""
    for name in OF_FOLD[fold_of]:
        assert of_column(name, [2.0, None, 3.0, 1.0]) == wanted
        assert of_column(name, [None]) is None


@pytest.mark.parametrize("name", OF_FOLD["sum"])
def test_a_sum_is_exact_and_of_its_own_type(name: str) -> None:
    """Counts stay whole; floats are correctly rounded once, whatever their order."""
    if name in INTEGERS:
        assert of_column(name, [2**53, 1, 1]) == 2**53 + 2
        assert type(of_column(name, [2, 3])) is int
    else:
        assert of_column(name, [1e16, 1.0, -1e16] if "cvd" in name else [0.1] * 10) == 1.0
        assert type(of_column(name, [2.0, 3.0])) is float


@pytest.mark.parametrize("name", [n for n in OF_FOLD["sum"] if n != "v_total_m_1"])
def test_a_sum_is_null_where_a_minute_that_traded_lacks_it(name: str) -> None:
    """The taker split of one minute is unknown: that of the bar is, the volume is not."""
    zero = 0 if name in INTEGERS else 0.0
    parts = [part(1, given={name: zero}), part(15, given={name: None})]
    assert fold(parts)[name] is None
    assert fold(parts)["v_total_m_1"] == 20.0
    silent = part(15, given={name: None, "v_total_m_1": None})
    assert fold([part(1, given={name: zero}), silent])[name] == 0


def test_volume_is_the_sum_of_what_is_known() -> None:
    """A hole has none; without any it is not 0 but NULL."""
    assert of_column("v_total_m_1", [1.5, None, 2.0]) == 3.5
    assert of_column("v_total_m_1", [None, None]) is None
    assert of_column("v_total_m_1", [0.0, 0.0]) == 0.0


def test_a_mean_is_of_the_known() -> None:
    """Correctly rounded, once."""
    for name in OF_FOLD["mean"]:
        assert of_column(name, [*[1.0] * 10, 2.0]) == twelve(Fraction(12, 11))


def test_a_median_is_that_of_the_known() -> None:
    """The mean of the middle two of an even count."""
    (name,) = OF_FOLD["median"]
    assert of_column(name, [float(k * k) for k in range(11)]) == 25.0
    assert of_column(name, [float(k * k) for k in range(12)]) == 30.5


@pytest.mark.parametrize(
    ("count", "rank"), [(11, 11), (14, 14), (15, 15), (19, 19), (20, 19), (39, 38), (40, 38)]
)
def test_the_95th_percentile_is_a_value_that_was_there(count: int, rank: int) -> None:
    """The smallest that at least 95 % of the known do not exceed."""
    (name,) = OF_FOLD["p95"]
    values = [float(k) for k in range(1, count + 1)]
    random.Random(count).shuffle(values)
    parts = [
        FOLDER.part_of_minute(
            NINE - (count - 1 - k) * MINUTE_MS,
            {**dict.fromkeys(NAMES["1m"]), "dq_status": "ok", "dq_reasons": [], name: value},
        )
        for k, value in enumerate(values)
    ]
    assert fold(parts, expected=count)[name] == float(rank)


COVERED = [*OF_FOLD["mean"], *OF_FOLD["median"], *OF_FOLD["p95"]]


@pytest.mark.parametrize("name", COVERED)
@pytest.mark.parametrize("known", range(16))
def test_a_quarter_needs_eleven_minutes_that_know(name: str, known: int) -> None:
    """Four of fifteen may lack it (26.7 %), five may not (33.3 %), absent or NULL alike."""
    for present in (known, 15):
        values = [None] * (present - known) + [2.0] * known
        assert of_column(name, values) == (2.0 if known >= 11 else None)


@pytest.mark.parametrize("name", COVERED)
@pytest.mark.parametrize(("known", "value"), [(4, 2.0), (3, 2.0), (2, None), (1, None), (0, None)])
def test_an_hour_needs_three_quarters_that_know(name: str, known: int, value: float | None) -> None:
    """One of four may lack it (25 %), two may not."""
    parts = [quarter(k, {name: 2.0 if k <= known else None}) for k in range(1, 5)]
    assert fold(parts, 4, 15)[name] == value
    assert fold(parts[:known], 4, 15)[name] == value


# --- what the bar is worth -----------------------------------------------------------------------


def with_odd(count: int, *reasons: str, total: int = 15) -> list[Part]:
    """Return all parts of a quarter, the first of which are not ok."""
    return [part(k, reasons if k <= count else ()) for k in range(16 - total, 16)]


@pytest.mark.parametrize(
    ("count", "found"), [(0, set()), (1, set()), (2, {"minutes_not_ok"}), (15, {"minutes_not_ok"})]
)
def test_a_tenth_of_the_minutes_not_ok_makes_a_quarter_partial(count: int, found: set[str]) -> None:
    """Two of fifteen are 13 %, one is not 10 % (build plan 15.3)."""
    parts = with_odd(count, "clock_late")
    assert reasons_of(parts) == found
    assert (fold(parts)["minutes_not_ok"], fold(parts)["minutes_missing"]) == (count, 0)


@pytest.mark.parametrize(("count", "stale"), [(0, False), (4, False), (5, True), (14, True)])
@pytest.mark.parametrize("absent", [False, True])
def test_three_tenths_of_the_minutes_missing_make_a_quarter_stale(
    count: int, stale: bool, absent: bool
) -> None:
    """Five of fifteen are 33 %, four are 27 %; a stale minute is as good as none."""
    parts = [part(k) for k in range(count + 1, 16)] if absent else with_odd(count, "gap")
    found = reasons_of(parts)
    assert ("minutes_missing" in found) is stale
    assert ("minutes_not_ok" in found) is (count >= 2)
    assert (fold(parts)["minutes_not_ok"], fold(parts)["minutes_missing"]) == (count, count)
    assert grade(found)[0] == ("stale" if stale else "partial" if count else "ok")


def test_absent_and_stale_minutes_add_up() -> None:
    """Two that are not there, two that are stale, one that is late: 4 missing, 5 not ok."""
    parts = [
        part(3, ("gap",)), part(4, ("book_stale",)), part(5, ("clock_late",)),
        *(part(k) for k in range(6, 16)),
    ]  # fmt: skip
    columns = fold(parts)
    assert (columns["minutes_missing"], columns["minutes_not_ok"]) == (4, 5)


@pytest.mark.parametrize(
    ("reasons", "not_ok", "missing"),
    [
        ((), 0, 0),
        (("quiet",), 0, 0),
        (("quiet", "clock_late"), 1, 0),
        (("quiet", "gap"), 1, 1),
        *(((reason,), 1, int(verdict == "stale")) for reason, verdict in VERDICTS.items()
          if reason not in ("quiet", "minutes_missing", "minutes_not_ok")),
    ],
)  # fmt: skip
def test_only_a_quiet_minute_is_forgiven(
    reasons: tuple[str, ...], not_ok: int, missing: int
) -> None:
    """Nobody traded: that is no fault of the feed, unless something else was."""
    columns = fold([part(1, reasons), *(part(k) for k in range(2, 16))])
    assert (columns["minutes_not_ok"], columns["minutes_missing"]) == (not_ok, missing)


def test_what_is_forgiven_is_said_by_the_pack() -> None:
    """So are both shares."""
    rollup = FEATURES.rollup.model_copy(
        update={"forgiven": ("clock_late",), "partial_share": 0.4, "stale_share": 0.2}
    )
    folder = Folder(FEATURES.model_copy(update={"rollup": rollup}))
    row = {**dict.fromkeys(NAMES["1m"]), "dq_status": "partial", "close": 1.0}
    late = folder.part_of_minute(NINE, {**row, "dq_reasons": ["clock_late"]})
    quiet = folder.part_of_minute(NINE, {**row, "dq_reasons": ["quiet"]})
    assert (late.minutes_not_ok, quiet.minutes_not_ok) == (0, 1)

    def found(quiets: int, absent: int) -> list[str]:
        parts = [
            msgspec.structs.replace(
                quiet if k < quiets + absent else late, label_ms=NINE - (14 - k) * MINUTE_MS
            )
            for k in range(absent, 15)
        ]
        return folder.fold(parts, NINE, expected=15, part_min=1)[1]

    assert found(5, 0) == []
    assert found(6, 0) == ["minutes_not_ok"]
    assert found(0, 2) == []
    assert found(0, 3) == ["minutes_missing"]


@pytest.mark.parametrize(
    ("minutes", "found"),
    [
        ((5, 0), set()),
        ((6, 0), {"minutes_not_ok"}),
        ((17, 17), {"minutes_not_ok"}),
        ((18, 18), {"minutes_not_ok", "minutes_missing"}),
    ],
)
def test_an_hour_counts_the_minutes_of_its_quarters(
    minutes: tuple[int, int], found: set[str]
) -> None:
    """Exactly 10 % are 6 of 60, exactly 30 % are 18: at the limit it counts."""
    not_ok, missing = minutes
    half, rest = (not_ok // 2, missing // 2), (not_ok - not_ok // 2, missing - missing // 2)
    parts = [
        quarter(1, not_ok=half[0], missing=half[1]),
        quarter(2),
        quarter(3),
        quarter(4, not_ok=rest[0], missing=rest[1]),
    ]
    assert reasons_of(parts, 4, 15) == found
    columns = fold(parts, 4, 15)
    assert (columns["minutes_not_ok"], columns["minutes_missing"]) == minutes


def test_a_quarter_that_does_not_exist_is_fifteen_minutes() -> None:
    """An asset that is half an hour old: 30 of 60 are missing, and half of its depth."""
    parts = [quarter(3), quarter(4, not_ok=2, missing=1)]
    columns = fold(parts, 4, 15)
    assert (columns["minutes_not_ok"], columns["minutes_missing"]) == (32, 31)
    assert reasons_of(parts, 4, 15) == {"minutes_not_ok", "minutes_missing", "book_missing"}


def test_a_bar_without_a_price_says_so() -> None:
    """Also when no minute is missing; without a print it is only quiet, as its minutes are."""
    parts = [part(k, close=None, trade_count_m_1=None) for k in range(1, 16)]
    assert reasons_of(parts) == {"no_data"}
    parts = [part(k, ("quiet",), close=None, trade_count_m_1=0) for k in range(1, 16)]
    assert reasons_of(parts) == {"quiet"}


@pytest.mark.parametrize(
    ("counts", "volumes", "quiet"),
    [
        ([0, 0], [0.0, 0.0], True),
        ([0, 1], [0.0, 5.0], False),
        ([None, None], [0.0, 0.0], True),
        ([None, None], [0.0, 5.0], False),
        ([None, 0], [5.0, 0.0], False),
        ([None, 0], [0.0, 0.0], True),
        ([None, None], [None, None], False),
        ([None, 0], [None, 0.0], True),
    ],
)
def test_a_bar_is_quiet_when_nobody_traded(
    counts: list[int | None], volumes: list[float | None], quiet: bool
) -> None:
    """By prints; where they are not counted, by volume."""
    parts = [
        part(14 + k, trade_count_m_1=count, v_total_m_1=volume)
        for k, (count, volume) in enumerate(zip(counts, volumes, strict=True))
    ]
    assert ("quiet" in reasons_of(parts)) is quiet


def test_old_open_interest_matters_at_the_close_only() -> None:
    """The levels of the bar come from any minute, its changes from the last."""
    others = [part(k, ("oi_stale",)) for k in range(1, 15)]
    assert "oi_stale" not in reasons_of([*others, part(15)])
    assert "oi_stale" in reasons_of([part(1), part(15, ("oi_stale",))])
    assert "oi_stale" not in reasons_of(others), "the last minute is not there"


@pytest.mark.parametrize(
    ("known", "reasons", "missing"),
    [
        (0, (), False),  # never subscribed
        (0, ("book_missing",), True),
        (10, ("book_missing",), True),
        (10, (), True),
        (11, ("book_missing",), False),
        (15, (), False),
    ],
)
def test_depth_is_missing_where_it_was_to_be_had(
    known: int, reasons: tuple[str, ...], missing: bool
) -> None:
    """Some minute knew it or missed it, and the bar does not have it (build plan 15.2)."""
    parts = [
        part(k, () if k <= known else reasons, obi_top5_mean_m_1=0.5 if k <= known else None)
        for k in range(1, 16)
    ]
    assert ("book_missing" in reasons_of(parts)) is missing


def test_an_hour_inherits_old_interest_and_missing_depth() -> None:
    """From the reasons of its quarters."""
    name = "obi_top5_mean_m_1"
    quarters = [quarter(k, {name: None}) for k in range(1, 5)]
    assert reasons_of(quarters, 4, 15) == set()
    quarters[1] = quarter(2, {name: None}, dq_reasons=["book_missing", "oi_stale"])
    assert reasons_of(quarters, 4, 15) == {"book_missing"}
    quarters[3] = quarter(4, {name: None}, dq_reasons=["oi_stale"])
    assert reasons_of(quarters, 4, 15) == {"book_missing", "oi_stale"}


def test_the_digest_names_the_folded_columns() -> None:
    """Stored parts of another pack are known by it; what is not folded does not matter."""
    columns = FEATURES.columns
    fewer = tuple(c for c in columns if c.name != "oi_min")
    other = tuple(c for c in columns if c.name != "z_vol_m_1")
    turned = (*columns[1:], columns[0])
    assert Folder(FEATURES).digest == FOLDER.digest
    assert Folder(FEATURES.model_copy(update={"columns": fewer})).digest != FOLDER.digest
    assert Folder(FEATURES.model_copy(update={"columns": other})).digest == FOLDER.digest
    moved = Folder(FEATURES.model_copy(update={"columns": turned}))
    assert (moved.layout == FOLDER.layout) is (moved.digest == FOLDER.digest)


def test_a_part_survives_storage() -> None:
    """Values, whole or not, text or NULL."""
    one = part(3, ("quiet",), source="ws", oi_close=0.1, dropped_ticks=7)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(one), type=Part) == one


# --- any parts -----------------------------------------------------------------------------------

ODDITIES = ("quiet", "clock_late", "gap", "oi_stale", "book_missing")
cells = st.none() | st.integers(-(10**6), 10**6)
present = st.tuples(
    st.booleans(),
    st.lists(st.sampled_from(ODDITIES), max_size=2),
    st.lists(cells, min_size=6, max_size=6),
)


def naive(name: str, parts: list[Columns | None]) -> Any:
    """Return what a column becomes, from the definitions."""
    how, there = FOLD_OF[name], [row for row in parts if row is not None]
    known = [row[name] for row in there if row[name] is not None]
    if how == "last":
        return None if parts[-1] is None else parts[-1][name]
    if not known:
        return None
    lacking = len(parts) - len(known)
    if how in ("mean", "median", "p95") and lacking * 10 >= 3 * len(parts):
        return None
    if how == "sum":
        if any(row[name] is None and row["v_total_m_1"] is not None for row in there):
            return None
        return sum(known) if name in INTEGERS else exact_sum(known)
    ordered = sorted(known)
    half = len(ordered) // 2
    folds: dict[str | None, Callable[[], Any]] = {
        "first": lambda: known[0],
        "last_known": lambda: known[-1],
        "min": lambda: ordered[0],
        "max": lambda: ordered[-1],
        "mean": lambda: twelve(math.fsum(known) / len(known)),
        "median": lambda: twelve(
            ordered[half] if len(ordered) % 2 else 0.5 * (ordered[half - 1] + ordered[half])
        ),
        "p95": lambda: next(
            value
            for value in ordered
            if 100 * sum(other <= value for other in ordered) >= 95 * len(ordered)
        ),
    }
    return folds[how]()


def naive_reasons(parts: list[Columns | None], folded: Columns) -> set[str]:
    """Return the reasons of a bar, in whole numbers."""
    minutes = len(parts)
    missing = sum(row is None or row["dq_status"] == "stale" for row in parts)
    not_ok = sum(
        row is None or any(reason != "quiet" for reason in row["dq_reasons"]) for row in parts
    )
    found = set()
    if 10 * missing >= 3 * minutes:
        found.add("minutes_missing")
    if 10 * not_ok >= minutes:
        found.add("minutes_not_ok")
    if folded["close"] is None:
        found.add("no_data")
    count = folded["trade_count_m_1"]
    if (folded["v_total_m_1"] if count is None else count) == 0:
        found.add("quiet")
    if parts[-1] is not None and "oi_stale" in parts[-1]["dq_reasons"]:
        found.add("oi_stale")
    there = [row for row in parts if row is not None]
    wanted = any(
        row["obi_top5_mean_m_1"] is not None or "book_missing" in row["dq_reasons"] for row in there
    )
    if folded["obi_top5_mean_m_1"] is None and wanted:
        found.add("book_missing")
    return found


@settings(max_examples=80)
@given(st.lists(present, min_size=15, max_size=15))
def test_oracle_a_quarter_by_the_definitions(
    minutes: list[tuple[bool, list[str], list[int | None]]],
) -> None:
    """Every folded column and every reason, for any pattern of absent minutes and NULLs."""
    rows: list[Columns | None] = []
    for there, reasons, values in minutes:
        status, ordered = grade(reasons)
        row: Columns = {**dict.fromkeys(NAMES["1m"])}
        row |= {"dq_status": status, "dq_reasons": ordered}
        for k, name in enumerate(FOLDER.layout):
            cell = values[k % 6]
            whole = name in INTEGERS or cell is None
            row[name] = cell if whole else twelve(Fraction(cell, 7))  # type: ignore[arg-type]
        for name in TELLING[1:3]:
            row[name] = None if row[name] is None else abs(row[name])
        rows.append(row if there else None)
    parts = [
        FOLDER.part_of_minute(NINE - (14 - k) * MINUTE_MS, row)
        for k, row in enumerate(rows)
        if row is not None
    ]
    columns, reasons = FOLDER.fold(parts, NINE, expected=15, part_min=1)
    for name in FOLDER.layout:
        assert columns[name] == naive(name, rows), name
    assert set(reasons) == naive_reasons(rows, columns)
    assert columns.keys() == {*FOLDER.layout, "minutes_not_ok", "minutes_missing"}


# --- through the step: build plan 15.5 -----------------------------------------------------------

ODD_MINUTES = (
    "absent", "hole", "no mid", "no prints", "no split", "late", "stale book", "no interest",
    "no depth", "jump", "amended", "confirmed",
)  # fmt: skip


def minute_columns(rng: random.Random, mid: float, odd: str) -> Columns:
    """Return the raw columns of a minute around a mid."""
    prices = [twelve(mid * math.exp(rng.gauss(0.0, 0.0004))) for _ in range(4)]
    buys, sells = (twelve(rng.uniform(0.0, 2e5)) for _ in range(2))
    mark, base = twelve(mid * 1.0001), twelve(rng.uniform(4e4, 6e4))
    columns: Columns = {
        "open": prices[0],
        "high": max(prices),
        "low": min(prices),
        "close": prices[-1],
        "mid_close": mid,
        "ret_s_30": twelve(rng.gauss(0.0, 0.001)),
        "rv_m_1": twelve(rng.uniform(0.0, 0.002)),
        "atr_proxy_m_1": twelve((max(prices) - min(prices)) / mid),
        "v_buy_m_1": buys,
        "v_sell_m_1": sells,
        "v_total_m_1": exact_sum([buys, sells]),
        "trade_count_m_1": rng.randint(1, 90),
        "cvd_delta_m_1": exact_sum([buys, -sells]),
        "spread_mean_m_1": twelve(rng.uniform(0.01, 0.2)),
        "spread_p95_m_1": twelve(rng.uniform(0.2, 0.4)),
        "oi_open": twelve(base * mark),
        "oi_close": twelve(base * mark * 1.001),
        "oi_min": twelve(base * mark * 0.999),
        "oi_max": twelve(base * mark * 1.002),
        "oi_close_base": base,
        "mark_close": mark,
        "oi_staleness_ms": rng.randint(0, 2000),
        "funding_h_1": twelve(rng.gauss(1e-5, 1e-6)),
        "basis_bp_m_1": twelve(rng.gauss(0.0, 3.0)),
        "time_to_next_funding_sec": 60,
        "obi_top5_mean_m_1": twelve(rng.random()),
        "depth_top5_quote_median_m_1": twelve(rng.uniform(1e4, 1e5)),
        "dropped_ticks": rng.randint(0, 3),
        "duplicate_ticks": rng.randint(0, 2),
        "book_staleness_ms": 60_000 if odd == "stale book" else rng.randint(0, 900),
        "clock_skew_ms": 40,
        "ingest_ts": "2025-09-03T09:30:01.500Z",
        "ingest_lag_ms": 1500,
        "source": "ws",
    }
    reasons = {
        "hole": ["gap"], "no mid": ["book_one_sided"], "no prints": ["quiet"],
        "late": ["clock_late"], "stale book": ["book_stale"], "no interest": ["oi_stale"],
        "no depth": ["book_missing"],
    }.get(odd, [])  # fmt: skip
    unknown = {
        "hole": ("open", "high", "low", "close", "mid_close", "v_total_m_1", "trade_count_m_1",
                 "v_buy_m_1", "v_sell_m_1", "cvd_delta_m_1", "spread_mean_m_1", "spread_p95_m_1"),
        "no mid": ("mid_close", "ret_s_30", "atr_proxy_m_1"),
        "no split": ("v_buy_m_1", "v_sell_m_1", "cvd_delta_m_1"),
        "no interest": ("oi_open", "oi_close", "oi_min", "oi_max", "oi_close_base", "mark_close"),
        "no depth": ("obi_top5_mean_m_1", "depth_top5_quote_median_m_1"),
    }.get(odd, ())  # fmt: skip
    columns |= dict.fromkeys(unknown)
    if odd == "no prints":
        columns |= dict.fromkeys(("v_buy_m_1", "v_sell_m_1", "v_total_m_1", "cvd_delta_m_1"), 0.0)
        columns["trade_count_m_1"] = 0
    columns["dq_status"], columns["dq_reasons"] = grade(reasons)
    return columns


class Asset:
    """One asset, driven minute by minute: sealed, perhaps amended, final."""

    def __init__(self) -> None:
        self.state = STEP.initial()
        self.minutes: dict[int, Row] = {}  # final rows by label
        self.longer: dict[tuple[str, int], Row] = {}

    def close(self, label: int, columns: Columns, amended: Columns | None = None) -> None:
        """Take a minute through both phases."""
        sealed = Bar(0, "BTC", label, 0, columns)
        late = None if amended is None else Bar(0, "BTC", label, 1, amended)
        for final, bar in ((False, sealed), (True, late)):
            phase = Phase(label, final, 1, label + (3000 if final else 1500))
            (item,) = STEP.step(self.state, BarItem(phase, 0, bar))
            assert (item.phase, item.asset_uid) == (phase, 0)
            for row in item.rows:
                assert row.exchange_ts_ms == label
                if row.tf == "1m":
                    self.minutes[label] = row
                else:
                    assert final, "a longer row waits for the final minute"
                    assert (row.tf, label) not in self.longer
                    self.longer[row.tf, label] = row

    def column(self, name: str, label: int) -> Any:
        """Return a column of the final minute with a label, NULL if it is not there."""
        row = self.minutes.get(label)
        return None if row is None else row.columns[name]

    def mid(self, label: int) -> float | None:
        """Return the mid that later minutes may look back to."""
        staleness = self.column("book_staleness_ms", label)
        fresh = staleness is not None and staleness <= 3000
        return self.column("mid_close", label) if fresh else None


def driven(seed: int, first: int, minutes: int, odd: dict[int, str]) -> Asset:
    """Drive an asset from minute `first` after 09:00 on."""
    rng, asset, mid = random.Random(seed), Asset(), 100.0
    for minute in range(first, first + minutes):
        kind = odd.get(minute - first, "")
        mid = twelve(mid * math.exp(rng.gauss(0.0, 0.001)) * (1.5 if kind == "jump" else 1.0))
        columns, other = minute_columns(rng, mid, kind), minute_columns(rng, mid * 1.01, "")
        if kind != "absent":
            late = {"amended": other, "confirmed": columns}.get(kind)
            asset.close(NINE + minute * MINUTE_MS, columns, late)
    return asset


odd_minutes = st.dictionaries(st.integers(0, 139), st.sampled_from(ODD_MINUTES), max_size=40)


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.integers(1, 61), odd_minutes)
def test_property_longer_rows_agree_with_their_minutes(
    seed: int, first: int, odd: dict[int, str]
) -> None:
    """The equalities of build plan 15.5, to the last digit, from final minutes."""
    asset = driven(seed, first, 140, odd)
    for length, tf in ((15, "15m"), (60, "1h")):
        due = {label for label in asset.minutes if label % (length * MINUTE_MS) == 0}
        assert {label for kind, label in asset.longer if kind == tf} == due
    for (tf, label), row in asset.longer.items():
        length = 15 if tf == "15m" else 60
        names: dict[str, str] = NAMES[tf]  # type: ignore[index]
        columns = {base: row.columns[name] for base, name in names.items()}
        labels = [label - k * MINUTE_MS for k in range(length - 1, -1, -1)]
        within = [asset.minutes[one] for one in labels if one in asset.minutes]
        if tf == "1h":  # of the quarters there are: one without its last minute is not there
            ends = {end for kind, end in asset.longer if kind == "15m"}
            within = [row for row in within if quarter_of(row.exchange_ts_ms) in ends]
        check_sums(asset, tf, label, columns, within)
        check_prices(asset, label, labels, columns, within)
        check_edges(asset, label, label - length * MINUTE_MS, columns)


def quarter_of(label: int) -> int:
    """Return the label of the quarter that a minute is in."""
    return -(-label // (15 * MINUTE_MS)) * 15 * MINUTE_MS


def check_sums(asset: Asset, tf: str, label: int, columns: Columns, within: list[Row]) -> None:
    """Volumes add up: minutes to a quarter, quarters to an hour."""
    name, parts = "v_total_m_1", [row.columns["v_total_m_1"] for row in within]
    if tf == "1h":
        quarters = [asset.longer.get(("15m", label - k * 15 * MINUTE_MS)) for k in range(4)]
        parts = [row.columns["v_total_m_15"] for row in quarters if row is not None]
    known = [value for value in parts if value is not None]
    assert columns[name] == (exact_sum(known) if known else None)
    if tf == "15m":
        for name in ("v_buy_m_1", "v_sell_m_1", "cvd_delta_m_1", "trade_count_m_1"):
            whole = [row for row in within if row.columns["v_total_m_1"] is not None]
            values = [row.columns[name] for row in whole]
            assert (columns[name] is None) == (None in values or not values)
            if columns[name] is not None:
                assert columns[name] == exact_sum(values)


def check_prices(
    asset: Asset, label: int, labels: list[int], columns: Columns, within: list[Row]
) -> None:
    """Open and close are those of the ends, high and low enclose every minute."""
    for name, pick in (("open", 0), ("close", -1)):
        known = [v for row in within if (v := row.columns[name]) is not None]
        assert columns[name] == (known[pick] if known else None)
    for row in within:
        for name in ("open", "high", "low", "close"):
            if row.columns[name] is not None:
                assert columns["low"] <= row.columns[name] <= columns["high"]
    assert columns["mid_close"] == asset.column("mid_close", label)
    high, low, mid = columns["high"], columns["low"], columns["mid_close"]
    if None not in (high, low, mid):
        assert columns["atr_proxy_m_1"] == twelve((high - low) / mid)
    else:
        assert columns["atr_proxy_m_1"] is None
    mids = [m for one in (labels[0] - MINUTE_MS, *labels) if (m := asset.mid(one)) is not None]
    if len(mids) < 2:
        assert columns["rv_m_1"] is None
    else:
        steps = [math.log(now / before) for before, now in pairwise(mids)]
        exact = math.sqrt(math.fsum(step * step for step in steps))
        assert math.isclose(columns["rv_m_1"], exact, rel_tol=1e-10, abs_tol=1e-14)


def check_edges(asset: Asset, label: int, before: int, columns: Columns) -> None:
    """Returns and changes are between the minutes at both ends, never sums of shorter ones."""
    now, then = asset.column("mid_close", label), asset.mid(before)
    wanted = None if now is None or then is None else twelve((now - then) / then)
    assert columns["ret_m_1"] == columns["ret_m_5"] == columns["ret_m_15"] == wanted
    assert columns["ret_abs_m_1"] == (None if wanted is None else abs(wanted))
    if label - before == 15 * MINUTE_MS:
        assert wanted == asset.column("ret_m_15", label)
    now, then = asset.column("oi_close_base", label), asset.column("oi_close_base", before)
    if now is None or then is None:
        assert columns["oi_delta_m_5"] is columns["oi_roc_m_5"] is None
    else:
        assert columns["oi_delta_m_5"] == twelve((now - then) * columns["mark_close"])
        assert columns["oi_roc_m_5"] == twelve((now - then) / then)
    for name in ("oi_close_base", "mark_close", "funding_h_1", "dfunding_h_1", "cvd_level"):
        assert columns[name] == asset.column(name, label)
    assert columns["basis_bp_m_5"] == columns["basis_bp_m_1"]


@settings(max_examples=15)
@given(st.integers(0, 2**32), odd_minutes)
def test_property_longer_rows_know_nothing_of_what_was_amended_away(
    seed: int, odd: dict[int, str]
) -> None:
    """Whichever minutes were amended, the longer rows are those of the final minutes alone."""
    asset = driven(seed, 1, 140, odd)
    other, rng, mid = Asset(), random.Random(seed), 100.0
    for minute in range(1, 141):
        kind = odd.get(minute - 1, "")
        mid = twelve(mid * math.exp(rng.gauss(0.0, 0.001)) * (1.5 if kind == "jump" else 1.0))
        columns, late = minute_columns(rng, mid, kind), minute_columns(rng, mid * 1.01, "")
        if kind != "absent":
            other.close(NINE + minute * MINUTE_MS, late if kind == "amended" else columns)
    assert other.longer == asset.longer
    assert other.state == asset.state


@pytest.mark.parametrize("amended", [15, 14, 8, 1])
def test_an_amendment_refolds(amended: int) -> None:
    """Of the closing minute and of one inside: the final values count (build plan 15.3)."""
    one, other = Asset(), Asset()
    rng = random.Random(3)
    for minute in range(1, 16):
        columns = minute_columns(rng, 100.0, "")
        late = {**columns, "v_total_m_1": 7e6, "high": 200.0} if minute == amended else None
        one.close(NINE + minute * MINUTE_MS, columns, late)
        other.close(NINE + minute * MINUTE_MS, late or columns)
    row = one.longer["15m", NINE + 15 * MINUTE_MS]
    assert row.columns["high"] == 200.0
    assert row.columns["v_total_m_15"] > 7e6
    assert row.revision == 0
    assert one.longer == other.longer


def test_state_of_longer_bars_is_bounded() -> None:
    """Parts of the next bar, and of minutes one more that can be taken back."""
    state: NormaliseState = driven(5, 1, 300, {}).state
    assert {tf: len(own.parts) for tf, own in state.tfs.items()} == {"1m": 16, "15m": 4, "1h": 0}
    assert {tf: len(own.history.labels) for tf, own in state.tfs.items()} == {
        "1m": 62,
        "15m": 5,
        "1h": 5,
    }
