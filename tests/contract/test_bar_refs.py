"""Which bars an event names."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.contract import ARRAY_MAX, Attachments
from operators.events import WINDOW_SEC, bar_refs
from operators.lattice import MINUTE_MS, iso
from packs.schema import TIMEFRAMES

T = 1_756_891_800_000  # 2025-09-03T09:30:00Z


def shown(tf: str, subtype: str, minute: int = 0) -> dict[str, list[str]]:
    """Return hours and minutes of the bars of an event `minute` minutes after 09:30."""
    found = bar_refs("SOL", tf, T + minute * MINUTE_MS, subtype)
    for name, refs in found.items():
        assert all(ref.startswith(f"SOL/{name}/2025-09-0") for ref in refs)
    return {name: [ref[-9:-4] for ref in refs] for name, refs in found.items()}


@pytest.mark.parametrize(
    ("subtype", "bars"),
    [
        ("vol_spike_m_1", ["09:30"]),
        ("burst_s_30", ["09:30"]),
        ("no_window", ["09:30"]),
        ("basket_shock_Δt_5s", ["09:30"]),
        ("almost_m_0", ["09:30"]),
        ("oi_spike_up_m_5", ["09:26", "09:27", "09:28", "09:29", "09:30"]),
        ("trend_m_15", [f"09:{minute}" for minute in range(16, 31)]),
    ],
)
def test_a_minute_names_the_minutes_of_its_window(subtype: str, bars: list[str]) -> None:
    """Oldest first; without a window it is the bar itself."""
    assert shown("1m", subtype) == {"1m": bars}


def test_a_long_window_is_full_quarters_and_the_minutes_since() -> None:
    """An hour that ends at 09:33 lies within four quarters and three minutes."""
    quarters = ["08:45", "09:00", "09:15", "09:30"]
    assert shown("1m", "funding_jolt_h_1", 3) == {
        "15m": quarters,
        "1m": ["09:31", "09:32", "09:33"],
    }
    assert shown("1m", "funding_jolt_h_1") == {"15m": quarters}
    assert shown("1m", "funding_jolt_h_1", 14)["15m"] == quarters
    assert len(shown("1m", "funding_jolt_h_1", 14)["1m"]) == 14
    assert shown("1m", "trend_m_20") == {"15m": ["09:15", "09:30"]}


def test_longer_bars_are_counted_in_bars_of_their_own() -> None:
    """The catalogue is written for minutes: m_5 is five bars of whatever the row is."""
    assert shown("15m", "vol_spike_m_1") == {"15m": ["09:30"]}
    assert shown("15m", "oi_spike_up_m_5") == {"15m": ["08:30", "08:45", "09:00", "09:15", "09:30"]}
    assert shown("15m", "funding_jolt_h_1") == {"15m": ["08:45", "09:00", "09:15", "09:30"]}
    assert shown("1h", "funding_jolt_h_1", 30) == {"1h": ["10:00"]}
    assert shown("1h", "oi_spike_up_m_5", 30) == {
        "1h": ["06:00", "07:00", "08:00", "09:00", "10:00"]
    }


@given(
    st.sampled_from(TIMEFRAMES),
    st.integers(200_000, 400_000),
    st.sampled_from(["s", "m", "h"]),
    st.integers(1, 9999),
)
def test_property_bars_are_few_on_the_lattice_and_up_to_the_event(
    tf: str, index: int, unit: str, count: int
) -> None:
    """At most 16 a timeframe, the newest the event's own; and the contract takes them."""
    label = index * 60 * MINUTE_MS if tf == "1h" else index * 1000 * WINDOW_SEC[tf]
    found = bar_refs("PURR/USDC", tf, label, f"x_{unit}_{count}")
    for name, refs in found.items():
        assert 1 <= len(refs) <= ARRAY_MAX
        assert all(ref.rsplit("/", 2)[:2] == ["PURR/USDC", name] for ref in refs)
        assert refs == sorted(set(refs))
    newest = max(refs[-1].rsplit("/", 1)[1] for refs in found.values())
    assert newest == iso(label)
    msgspec.convert({"bar_refs": found}, Attachments)
