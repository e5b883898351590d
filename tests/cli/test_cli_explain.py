"""`alpha explain`: what it prints, draws and refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from dataflows.cli.failures import INPUT, NOT_IN_ORDER, USAGE
from dataflows.replay import replay
from operators.publish import canonical
from packs.loader import load_packs

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def products(episode_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The products of a replay."""
    out = tmp_path_factory.mktemp("explained")
    replay(episode_log, out, load_packs())
    return out


def ids(directory: Path) -> dict[str, str]:
    """The id of the first event of each symbol."""
    found: dict[str, str] = {}
    for line in (directory / "events.ndjson").read_bytes().splitlines():
        event = orjson.loads(line)
        found.setdefault(event["symbol"], event["event_id"])
    return found


def test_it_tells_everything_and_makes_it_again(alpha: Any, products: Path) -> None:
    """Configuration, conditions, terms, debounce, and the verdict."""
    for symbol, event_id in ids(products).items():
        ran = alpha("explain", event_id, "--from", products)
        assert ran.code == 0
        assert ran.out.startswith(f"{symbol} ")
        for word in ("config", "trigger: ", "primary", "novelty", "penalty", "debounce", "emitted"):
            assert word in ran.out, word
        assert "made again  equal, byte for byte" in ran.out
        document = alpha("explain", event_id, "--from", products, "--json").json
        assert document["event_id"] == event_id
        assert document["recomputed"]["equal"] is True
        assert document["row"]["dq_status"] == "ok"
        assert document["trigger"]["result"] is True


def test_it_draws(alpha: Any, products: Path, tmp_path: Path) -> None:
    """A picture of an asset's event and one of the market's; the same bytes each time."""
    for symbol, event_id in ids(products).items():
        pictures = [tmp_path / f"{symbol}-{n}.png" for n in range(2)]
        for picture in pictures:
            assert alpha("explain", event_id, "--from", products, "--plot", picture).code == 0
        first, second = (picture.read_bytes() for picture in pictures)
        assert first.startswith(PNG)
        assert len(first) > 20_000
        assert first == second


def test_packs_of_a_shipped_version_are_found(
    alpha: Any, episode_log: Path, tmp_path: Path
) -> None:
    """An event of the other detector pack needs no option."""
    pack = Path(__file__).parents[2] / "packs" / "detectors" / "v0.1.yaml"
    replay(episode_log, tmp_path / "out", load_packs(detectors=pack))
    event_id = next(iter(ids(tmp_path / "out").values()))
    ran = alpha("explain", event_id, "--from", tmp_path / "out")
    assert ran.code == 0
    assert "detector pack v0.1" in ran.out
    assert "equal, byte for byte" in ran.out


def test_an_event_that_does_not_come_out_again_is_an_exit_code(
    alpha: Any, products: Path, tmp_path: Path
) -> None:
    """It names the path and both values."""
    out = tmp_path / "edited"
    out.mkdir()
    for path in products.glob("*.ndjson"):
        (out / path.name).write_bytes(path.read_bytes())
    events = [orjson.loads(line) for line in (out / "events.ndjson").read_bytes().splitlines()]
    events[0]["novelty"]["first_seen_at"] = "2026-01-01T00:00:00Z"
    (out / "events.ndjson").write_bytes(b"".join(canonical(e) + b"\n" for e in events))
    ran = alpha("explain", events[0]["event_id"], "--from", out)
    assert ran.code == NOT_IN_ORDER
    assert "NOT EQUAL" in ran.out
    assert "novelty.first_seen_at: stored '2026-01-01T00:00:00Z', made again" in ran.out


def test_what_cannot_be_explained(
    alpha: Any, products: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown id, no directory, a directory without events, no database."""
    alpha("explain", "x", "--from", products).failed_with(
        INPUT, "x: expected an event", "found none"
    )
    alpha("explain", "x", "--from", tmp_path / "no").failed_with(INPUT, "expected a directory")
    alpha("explain", "x", "--from", tmp_path).failed_with(INPUT, "expected one of events.ndjson")
    monkeypatch.setenv("ALPHA_DATABASE_URL", "off")
    alpha("explain", "x").failed_with(USAGE, "`off`", "--from DIRECTORY")
