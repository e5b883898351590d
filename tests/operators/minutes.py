"""Minutes of one asset and what normalisation remembers of them, for the tests of its states."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache

from hypothesis import strategies as st

from operators.lattice import DAY_MS, HOUR_MS, MINUTE_MS
from operators.normal_state import NormaliseState
from operators.normalize import Normalize
from operators.quality import grade
from operators.records import Bar, BarItem, Columns, Phase, Row
from packs.loader import load_packs
from packs.schema import TIMEFRAMES, Timeframe

PACKS = load_packs()
STEP = Normalize(PACKS)
CODEC = STEP.codec()
EARLY = 12  # samples that end the warm-up in most tests of this file, in place of 200
MIDNIGHT = 20_000 * DAY_MS
BASELINES: list[tuple[Timeframe, str]] = [
    (tf, n.feature) for tf in TIMEFRAMES for n in PACKS.features.normalised if tf in n.tfs
]


def early_step() -> Normalize:
    """Return a step whose baselines are warm after a few bars."""
    robust = PACKS.features.robust.model_copy(update={"min_samples": EARLY})
    return Normalize(replace(PACKS, features=PACKS.features.model_copy(update={"robust": robust})))


SOON = early_step()
SOON_CODEC = SOON.codec()


def twelve(x: float) -> float:
    """Return a number as rows hold it."""
    return float(f"{x:.12g}") + 0.0


def minute(
    label: int, rng: random.Random, reasons: Sequence[str] = (), *, wild: bool = False
) -> Columns:
    """Return the columns of a minute; a wild one is far from all others."""
    far = 9.0 if wild else 1.0
    mid = twelve(100.0 * math.exp(rng.gauss(0.0, 0.004 * far)))
    buys, sells = (twelve(math.exp(rng.gauss(10.0 + far, 1.0))) for _ in range(2))
    status, ordered = grade(reasons)
    traded = "quiet" not in reasons
    return {
        **dict.fromkeys(("open", "high", "low", "close", "mid_close"), mid),
        "v_buy_m_1": buys if traded else 0.0,
        "v_sell_m_1": sells if traded else 0.0,
        "v_total_m_1": twelve(buys + sells) if traded else 0.0,
        "trade_count_m_1": 50 if traded else 0,
        "cvd_delta_m_1": twelve(buys - sells) if traded else 0.0,
        "spread_mean_m_1": twelve(rng.choice((0.5, 0.5, 0.75, 1.5)) * far),
        "spread_p95_m_1": twelve(1.5 * far),
        "oi_close": twelve(5e6 * mid),
        "oi_close_base": twelve(5e4 * math.exp(rng.gauss(0.0, 0.01 * far))),
        "mark_close": mid,
        "funding_h_1": twelve(rng.gauss(1e-5, 1e-6 * far)),
        "basis_bp_m_1": None if rng.random() < 0.1 else twelve(rng.gauss(0.0, 3.0 * far)),
        "dropped_ticks": rng.randint(0, 9),
        "book_staleness_ms": 100,
        "ingest_ts": "2025-09-03T09:30:01.500Z",
        "ingest_lag_ms": 1500,
        "dq_status": status,
        "dq_reasons": ordered,
        "source": "ws",
    }


def item(label: int, columns: Columns | None, *, final: bool = False) -> BarItem:
    """Return a phase of a minute; in the final one a bar is an amendment."""
    bar = None if columns is None else Bar(0, "BTC", label, int(final), columns)
    return BarItem(Phase(label, final, 1, label + (3000 if final else 1500)), 0, bar)


def both(label: int, sealed: Columns, amended: Columns | None = None) -> list[BarItem]:
    """Return both phases of a minute."""
    return [item(label, sealed), item(label, amended, final=True)]


def run(items: Iterable[BarItem], state: NormaliseState, step: Normalize = SOON) -> list[Row]:
    """Feed items and return the rows."""
    return [row for one in items for out in step.step(state, one) for row in out.rows]


def stream(first: int, count: int, seed: int = 1) -> list[BarItem]:
    """Return both phases of minutes, the first of them labelled `first`."""
    rng = random.Random(seed)
    labels = [first + k * MINUTE_MS for k in range(count)]
    return [one for label in labels for one in both(label, minute(label, rng))]


@cache
def _grown(until: int, minutes: int, days: int) -> bytes:
    state = SOON.initial()
    rng = random.Random(7)
    for day in range(days, 0, -1):
        start = until - until % DAY_MS - day * DAY_MS
        for k in range(1, 4):
            run(both(start + k * HOUR_MS + MINUTE_MS, minute(0, rng)), state)
    run(stream(until - (minutes - 1) * MINUTE_MS, minutes, seed=3), state)
    return SOON_CODEC.encode(state)


def grown(until: int, minutes: int = 120, days: int = 0) -> NormaliseState:
    """Return the state after minutes up to a label, perhaps with a few minutes on days before.

    Minutes are warm then; quarters are after three hours.
    """
    return SOON_CODEC.decode(_grown(until, minutes, days))


REASONS: tuple[tuple[str, ...], ...] = ((), (), ("clock_late",), ("gap",), ("quiet",))
closings = st.lists(
    st.tuples(
        st.sampled_from((1, 1, 1, 2, 7)),  # minutes since the last one
        st.sampled_from(REASONS),
        st.none() | st.sampled_from(REASONS),  # amended to what
        st.booleans(),  # the sealed version is wild
    ),
    min_size=1,
    max_size=18,
)
Closings = list[tuple[int, tuple[str, ...], tuple[str, ...] | None, bool]]
# Where the days, hours and warm-ups of the tests below begin and end.
BASES = {
    "first minutes": (MIDNIGHT + 9 * HOUR_MS, 0, 0),
    "end of warm-up": (MIDNIGHT + 9 * HOUR_MS, EARLY - 3, 0),
    "end of warm-up at midnight": (MIDNIGHT - 3 * MINUTE_MS, EARLY - 1, 0),
    "hour and quarter": (MIDNIGHT + 9 * HOUR_MS - 4 * MINUTE_MS, 120, 0),
    "midnight": (MIDNIGHT - 4 * MINUTE_MS, 120, 0),
    "midnight after six days": (MIDNIGHT - 4 * MINUTE_MS, 120, 6),
    "midnight after nine days": (MIDNIGHT - 4 * MINUTE_MS, 120, 9),
}


def unlike() -> NormaliseState:
    """Return a state in which no two baselines are the same."""
    return grown(MIDNIGHT + 9 * HOUR_MS, minutes=240)


def flipped(data: bytes, at: int, mask: int) -> bytes:
    """Flip bits of one byte."""
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


def other_step(*dropped: str) -> Normalize:
    """Return a step whose pack lacks some columns."""
    columns = tuple(c for c in PACKS.features.columns if c.name not in dropped)
    robust = PACKS.features.robust.model_copy(update={"min_samples": EARLY})
    features = PACKS.features.model_copy(update={"columns": columns, "robust": robust})
    return Normalize(replace(PACKS, features=features))


def warm_after(samples: int) -> Normalize:
    """Return a step whose pack asks for so many samples before a z."""
    robust = PACKS.features.robust.model_copy(update={"min_samples": samples})
    features = PACKS.features.model_copy(update={"robust": robust})
    return Normalize(replace(PACKS, features=features))


def transformed(feature: str, transform: str) -> Normalize:
    """Return a step whose pack transforms a feature in another way."""
    normalised = tuple(
        n.model_copy(
            update={"transform": transform, "d_min": 1e-6 if transform == "asinh" else None}
        )
        if n.feature == feature
        else n
        for n in PACKS.features.normalised
    )
    robust = PACKS.features.robust.model_copy(update={"min_samples": EARLY})
    features = PACKS.features.model_copy(update={"normalised": normalised, "robust": robust})
    return Normalize(replace(PACKS, features=features))


def without_basis() -> Normalize:
    """Return a step whose pack has no baseline of the basis."""
    kept = tuple(n for n in PACKS.features.normalised if n.feature != "basis")
    robust = PACKS.features.robust.model_copy(update={"min_samples": EARLY})
    features = PACKS.features.model_copy(update={"normalised": kept, "robust": robust})
    return Normalize(replace(PACKS, features=features))
