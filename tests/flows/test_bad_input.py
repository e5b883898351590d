"""Damage is counted by reason and costs nothing beside it, all the way through the engine."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from dataflows.replay import Summary, product_path, replay
from packs.loader import load_packs

pytestmark = pytest.mark.engine

M = 1_756_891_800_000


def entry(at_ms: int, tid: int, **changes: object) -> dict[str, object]:
    """Return a good print, or a spoilt one."""
    good = {"coin": "BTC", "side": "B", "px": "100", "sz": "1", "time": at_ms, "tid": tid}
    return {**good, **changes}


def line(at_ms: int, channel: str, data: object = None) -> bytes:
    """Return a log line."""
    body = {"channel": channel} if data is None else {"channel": channel, "data": data}
    return b"%d %b\n" % (at_ms * 1_000_000, json.dumps(body).encode())


def minutes(count: int, *, spoil: dict[int, bytes] | None = None) -> bytes:
    """Return a log of some minutes with one print and one quote a second; `spoil` is inserted."""
    assets = [{"uid": 0, "coin": "BTC", "channels": ["trades", "bbo"]}]
    parts = [line(M - 60_000, "alpha.roster", {"from_ms": M, "assets": assets})]
    for second in range(60 * count + 4):
        at = M - 60_000 + 1000 * second
        level = [{"px": "99", "sz": "1", "n": 1}, {"px": "101", "sz": "1", "n": 1}]
        parts.append(line(at + 100, "bbo", {"coin": "BTC", "time": at, "bbo": level}))
        parts.append(line(at + 200, "trades", [entry(at, second + 1)]))
        parts.append((spoil or {}).get(second, b""))
    return b"".join(parts)


def run(tmp_path: Path, log: bytes) -> tuple[Summary, list[dict[str, object]]]:
    """Replay a log and return the summary and the one-minute rows."""
    path = tmp_path / "log"
    path.write_bytes(log)
    summary = replay(path, tmp_path / "out", load_packs())
    rows = product_path(tmp_path / "out", "rows").read_bytes().splitlines()
    return summary, [row for row in map(json.loads, rows) if row["tf"] == "1m"]


AT = M - 60_000 + 30_500  # where spoils are inserted
SPOILS = {
    "binary garbage": (b"\x00\x01\xff\xfe\n", {"bad_line": 1}, 0),
    "a stamp without a frame": (b"123456789\n", {"bad_line": 1}, 0),
    "text that is no JSON": (b"%d hello\n" % (AT * 10**6), {"not_json": 1}, 0),
    "cut JSON": (b'%d {"channel":"trades","da\n' % (AT * 10**6), {"not_json": 1}, 0),
    "wrong types": (line(AT, "trades", {"coin": 5}), {"wrong_shape": 1}, 0),
    "an unknown channel": (line(AT, "user", {}), {"unknown_channel": 1}, 0),
    "an unknown coin": (line(AT, "trades", [entry(AT, 9, coin="X")]), {"unknown_coin": 1}, 0),
    "a negative size": (line(AT, "trades", [entry(AT, 9, sz="-1")]), {"bad_size": 1}, 1),
    "not a number": (line(AT, "trades", [entry(AT, 9, px="NaN")]), {"bad_price": 1}, 1),
    "an absurd price": (line(AT, "trades", [entry(AT, 9, px="1e9")]), {}, 1),
    "a price of zero": (line(AT, "trades", [entry(AT, 9, px="0")]), {"bad_price": 1}, 1),
    "an impossible time": (line(AT, "trades", [entry(-1, 9)]), {"bad_time": 1}, 1),
    "a print from the future": (line(AT, "trades", [entry(AT + 6000, 9)]), {}, 1),
    "a print from last year": (line(AT, "trades", [entry(AT - 10**10, 9)]), {}, 1),
    "a duplicate": (line(AT, "trades", [entry(AT - 500, 31)]), {}, 1),
    "time going backwards": (line(AT - 20_000, "alpha.clock"), {"clock_backwards": 1}, 0),
    "a clock years ahead": (line(AT + 10**11, "alpha.clock"), {"clock_jump": 1}, 0),
    "an error of the venue": (line(AT, "error", "Already subscribed"), {"venue_error": 1}, 0),
    "50 MB": (b"%d " % (AT * 10**6) + b"x" * (50 << 20) + b"\n", {"frame_too_large": 1}, 0),
}


@pytest.mark.parametrize("kind", SPOILS)
def test_each_kind_of_damage_has_its_counter_and_costs_only_itself(
    tmp_path: Path, kind: str
) -> None:
    """The minute keeps its 60 prints; the damage shows in the summary or in the row."""
    spoil, counts, dropped = SPOILS[kind]
    summary, rows = run(tmp_path, minutes(2, spoil={30: spoil}))
    assert summary.dropped == counts
    assert [row["trade_count_m_1"] for row in rows] == [60, 60]
    assert [row["v_total_m_1"] for row in rows] == [6000.0, 6000.0]
    assert sum(int(str(row["dropped_ticks"])) for row in rows) == dropped


def test_all_kinds_together_change_nothing_but_the_counters(tmp_path: Path) -> None:
    """Damage does not add up to anything worse."""
    spoil = {30: b"".join(text for text, _, _ in SPOILS.values() if len(text) < 1 << 20)}
    _, clean = run(tmp_path, minutes(3))
    _, spoilt = run(tmp_path, minutes(3, spoil=spoil))
    changed = {name for a, b in zip(clean, spoilt, strict=True) for name in a if a[name] != b[name]}
    assert changed <= {"dropped_ticks", "duplicate_ticks", "clock_skew_ms"}


def test_a_log_cut_at_any_byte_gives_a_prefix_of_its_rows(tmp_path: Path) -> None:
    """What was sealed before the cut is exactly the same."""
    log = minutes(4)
    _, whole = run(tmp_path, log)
    for cut in range(1, len(log), len(log) // 17):
        _, rows = run(tmp_path, log[:cut])
        assert rows == whole[: len(rows)]


def test_a_cut_gzip_gives_what_came_before_the_cut(tmp_path: Path) -> None:
    """A damaged recording is not a lost recording."""
    log = minutes(30)
    _, whole = run(tmp_path, log)
    summary, rows = run(tmp_path, gzip.compress(log)[:-2000])
    assert summary.dropped["corrupt_segment"] == 1
    assert 5 < len(rows) < 30
    assert rows == whole[: len(rows)]


def test_an_empty_log_gives_four_empty_files(tmp_path: Path) -> None:
    """Nothing in, nothing out, no crash."""
    summary, rows = run(tmp_path, b"")
    assert rows == []
    assert {product.count for product in summary.products.values()} == {0}
