"""One digest of the golden set in every world that can be made here without much time."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bench.portability import World, cheap_worlds, golden_logs, other_pythons, run_in

RESULT = Path(__file__).parents[1] / "bench" / "results" / "portability.json"


CHEAP = ("hash seed 4242, Kathmandu", "numpy without dispatch", "the same, plain kernel")


@pytest.fixture(autouse=True)
def _one_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTABILITY_PACKS", "v0.2")


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The episodes alone: what a world differs in would show there."""
    return golden_logs(tmp_path_factory.mktemp("golden"))[:1]


@cache
def here(log: Path) -> dict[str, Any]:
    """What this interpreter makes of them."""
    return run_in(World("here"), [log])


@pytest.mark.parametrize(
    "world", [w for w in cheap_worlds() if w.name in CHEAP], ids=lambda world: world.name
)
def test_a_world_has_the_same_digest(logs: list[Path], world: World) -> None:
    """Product by product, and our own functions to the last bit."""
    found, expected = run_in(world, logs), here(logs[0])
    assert found["parts"] == expected["parts"]
    assert found["digest"] == expected["digest"]
    if "ALPHA_PLAIN" in world.environment:
        assert found["kernel"] == "plain"


def test_the_other_python_has_the_same_digest(logs: list[Path]) -> None:
    """3.12 beside 3.11, or the other way round."""
    worlds, missing = other_pythons()
    if not worlds:
        pytest.skip("; ".join(missing))
    found = run_in(worlds[0], logs)
    assert found["digest"] == here(logs[0])["digest"]
    assert found["python"][:4] != here(logs[0])["python"][:4]


def test_the_stored_result_is_one_value() -> None:
    """Of at least two Pythons and two architectures, and of other paths of the C library."""
    stored = json.loads(RESULT.read_text())
    worlds = stored["worlds"].values()
    assert stored["one_value"]
    assert len({world["digest"] for world in worlds}) == 1
    assert {world["machine"] for world in worlds} >= {"x86_64", "aarch64"}
    assert {world["python"][:4] for world in worlds} >= {"3.11", "3.12"}
    assert len({world["libm"] for world in worlds}) > 1
