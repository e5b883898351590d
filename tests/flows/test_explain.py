"""Each event is made again from what was stored, and what stands in the way is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest

from dataflows.archive import Span, StoredEvent
from dataflows.connectors.archive_files import FileArchive
from dataflows.explain import Explanation, explain
from dataflows.replay import product_path, replay
from operators.modes import Run
from operators.publish import canonical
from packs.loader import Packs, load_packs

ROOT = Path(__file__).parents[2]
Change = Callable[[dict[str, Any]], None]
LAST = Span(0, 10**13)


def packs_of(name: str) -> Packs:
    """Return a shipped detector pack with the default others."""
    return load_packs(detectors=ROOT / "packs" / "detectors" / f"{name}.yaml")


@pytest.fixture(scope="module", params=["v0.1", "v0.2"])
def run(
    request: pytest.FixtureRequest, episode_log: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Packs]:
    """Return the products of a replay with each pack."""
    packs = packs_of(request.param)
    out = tmp_path_factory.mktemp(f"explain-{request.param}")
    replay(episode_log, out, packs)
    return out, packs


def events_of(directory: Path, product: str = "events") -> list[dict[str, Any]]:
    """Return the events of a product file."""
    return [
        orjson.loads(line) for line in product_path(directory, product).read_bytes().splitlines()
    ]


def explained(directory: Path, packs: Packs, event_id: str) -> Explanation:
    """Explain one event of a directory."""
    archive = FileArchive(directory)
    stored = archive.event(event_id)
    assert stored is not None
    return explain(archive, packs, stored)


def copied(directory: Path, to: Path, product: str, change: Change) -> Path:
    """Copy a replay with every line of one product changed."""
    to.mkdir()
    for path in directory.glob("*.ndjson"):
        (to / path.name).write_bytes(path.read_bytes())
    made = []
    for text in product_path(to, product).read_bytes().splitlines():
        line = orjson.loads(text)
        change(line)
        made.append(canonical(line) + b"\n")
    product_path(to, product).write_bytes(b"".join(made))
    return to


def test_every_event_comes_out_again(run: tuple[Path, Packs]) -> None:
    """Byte for byte, with its severity and its debounce."""
    directory, packs = run
    events = events_of(directory)
    befores = 0
    for event in events:
        found = explained(directory, packs, event["event_id"])
        assert found.recomputed.equal is True, (event, found.recomputed)
        assert found.trigger is not None
        assert found.trigger.result is True
        assert found.gate is None
        assert found.severity is not None
        assert found.severity.severity == event["severity"] >= found.severity.publish_threshold
        assert found.debounce is not None
        assert found.debounce.after.severity == event["severity"]
        befores += found.debounce.before is not None
        assert {s.reason for s in found.suppressed} >= (
            {"coalesced"} if "coalesced" in event else set()
        )
    assert befores


def test_the_terms_add_up(run: tuple[Path, Packs]) -> None:
    """Weight times value, summed as the scorer sums, is the raw score."""
    directory, packs = run
    for event in events_of(directory):
        severity = explained(directory, packs, event["event_id"]).severity
        assert severity is not None
        total = 0.0
        for term in severity.terms:
            assert term.adds == term.weight * term.value or (term.adds, term.value) == (0.0, 0.0)
            total += term.adds
        assert total == pytest.approx(severity.raw, abs=1e-12)


def test_a_changed_number_is_found(run: tuple[Path, Packs], tmp_path: Path) -> None:
    """A stored event whose severity was edited is not what comes out."""
    directory, packs = run

    def louder(line: dict[str, Any]) -> None:
        line["severity"] -= 1

    edited = copied(directory, tmp_path / "edited", "events", louder)
    event = events_of(edited)[0]
    made = explained(edited, packs, event["event_id"]).recomputed
    assert made.equal is False
    assert made.differences == {"severity": (event["severity"], event["severity"] + 1)}


def test_a_row_on_which_nothing_fires_is_said(run: tuple[Path, Packs], tmp_path: Path) -> None:
    """The row was edited: the detector is silent, and the conditions show why."""
    directory, packs = run

    def quiet(line: dict[str, Any]) -> None:
        for name in line:
            if name.startswith(("z_", "ret_", "oi_roc")) and isinstance(line[name], float):
                line[name] = 0.0

    edited = copied(directory, tmp_path / "edited", "rows", quiet)
    event = next(e for e in events_of(edited) if e["class"] == "spike")
    found = explained(edited, packs, event["event_id"])
    assert found.recomputed.equal is False
    assert "does not fire" in (found.recomputed.why or "")
    assert found.trigger is not None
    assert found.trigger.result is False


def test_what_stands_in_the_way(run: tuple[Path, Packs], tmp_path: Path) -> None:
    """Another configuration, a row or a frame that is gone: known parts stay, no guesses."""
    directory, packs = run
    event = next(e for e in events_of(directory) if e["symbol"] != "MARKET")
    other = replace(packs, config_hash="sha256:other")
    found = explained(directory, other, event["event_id"])
    assert (found.recomputed.equal, found.severity) == (None, None)
    assert "another configuration" in (found.recomputed.why or "")
    assert found.summary["severity"] == event["severity"]
    for product, word in (("rows", "row"), ("frames", "frame")):
        gone = copied(directory, tmp_path / product, product, lambda line: None)
        product_path(gone, product).write_bytes(b"")
        found = explained(gone, packs, event["event_id"])
        assert found.recomputed.equal is None
        assert word in (found.recomputed.why or "")


def test_an_amended_row_is_not_taken_for_the_old_one(
    run: tuple[Path, Packs], tmp_path: Path
) -> None:
    """The event says by its id which revision it rests on."""
    directory, packs = run

    def amended(line: dict[str, Any]) -> None:
        line["revision"] += 1

    edited = copied(directory, tmp_path / "amended", "rows", amended)
    event = next(e for e in events_of(edited) if e["symbol"] != "MARKET")
    found = explained(edited, packs, event["event_id"])
    assert found.recomputed.equal is None
    assert "amended since" in (found.recomputed.why or "")


def test_a_candidate_held_back_by_the_cap_started_the_cooldown(
    run: tuple[Path, Packs], tmp_path: Path
) -> None:
    """It was never published, and the next event of its key is explained all the same."""
    directory, packs = run
    second = next(
        e
        for e in events_of(directory)
        if (x := explained(directory, packs, e["event_id"]).debounce) is not None
        and x.before is not None
    )
    before = explained(directory, packs, second["event_id"]).debounce
    assert before is not None
    archive = FileArchive(directory)
    earlier = [
        each.payload
        for each in archive.events(second["asset_uid"], second["tf"], LAST)
        if each.payload["debounce_key"] == second["debounce_key"]
        and each.payload["emitted_at"] < second["emitted_at"]
    ]
    last = earlier[-1]
    capped = copied(directory, tmp_path / "capped", "events", lambda line: None)
    kept = [e for e in events_of(capped) if e["event_id"] != last["event_id"]]
    product_path(capped, "events").write_bytes(b"".join(canonical(e) + b"\n" for e in kept))
    held = {
        **{name: last[name] for name in ("asset_uid", "symbol", "tf", "exchange_ts", "severity")},
        "revision": 0,
        "detector_id": f"{last['class']}.{last['subtype']}",
        "reason": "budget_global",
        "state": None,
    }
    detectors = {(d.event_class, d.subtype): d.detector_id for d in packs.detectors}
    held["detector_id"] = detectors[last["class"], last["subtype"]]
    with product_path(capped, "suppressed").open("ab") as file:
        file.write(canonical(held) + b"\n")
    found = explained(capped, packs, second["event_id"])
    assert found.debounce is not None
    assert found.debounce.before is not None
    assert (found.debounce.before.at_ms, found.debounce.before.severity) == (
        before.before.at_ms if before.before else None,
        last["severity"],
    )
    assert found.recomputed.equal is True


def test_an_event_in_shadow_is_explained(episode_log: Path, tmp_path: Path) -> None:
    """Of a run in shadow, and of detectors in shadow beside live ones."""
    shipped = packs_of("v0.2")
    half = tuple(replace(d, mode="shadow") if n % 2 else d for n, d in enumerate(shipped.detectors))
    mixed = replace(shipped, detectors=half)
    for name, packs, mode in (("run", shipped, "shadow"), ("half", mixed, "prod")):
        out = tmp_path / name
        replay(episode_log, out, packs, run=msgspec.convert({"mode": mode}, Run))
        shadow = events_of(out, "shadow")
        assert shadow
        for event in (*shadow, *events_of(out)):
            found = explained(out, packs, event["event_id"])
            assert found.recomputed.equal is True, (event, found.recomputed)
        assert explained(out, packs, shadow[0]["event_id"]).topic == "shadow"


def test_bytes_that_are_no_event_of_the_run(run: tuple[Path, Packs]) -> None:
    """An id that no revision of its row gives."""
    directory, packs = run
    event = {**events_of(directory)[0], "event_id": "00000000-0000-7000-8000-000000000000"}
    found = explain(FileArchive(directory), packs, StoredEvent(canonical(event), event))
    assert found.recomputed.equal is False
    assert list(found.recomputed.differences) == ["event_id"]


def test_an_event_of_the_market_is_explained(episode_log: Path, tmp_path: Path) -> None:
    """Its row is the frame; two shocked assets are a basket here."""
    pack = tmp_path / "baskets.yaml"
    pack.write_text(
        "detector_pack: v9.0\n"
        "detectors:\n"
        "  - {id: spike.busy_m_1, trigger: z_vol_m_1 >= 1.5, primary: z_vol_m_1}\n"
        "  - {id: sync.pair_m_1, trigger: shock_count_5s >= 2, primary: 2 * shock_count_5s,\n"
        "     publish_threshold: 0}\n"
    )
    packs = load_packs(detectors=pack)
    small = packs.universe.model_copy(update={"min_assets_for_context": 2})
    packs = replace(packs, universe=small)
    replay(episode_log, tmp_path / "out", packs)
    market = [e for e in events_of(tmp_path / "out") if e["symbol"] == "MARKET"]
    assert market
    for event in market:
        found = explained(tmp_path / "out", packs, event["event_id"])
        assert found.recomputed.equal is True, found.recomputed
        assert found.trigger is not None
        assert found.trigger.values["shock_count_5s"] >= 2
