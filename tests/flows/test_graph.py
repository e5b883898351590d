"""The graph is pinned: step ids name stored state, and the README shows what runs."""

from __future__ import annotations

from pathlib import Path

from bytewax.visualize import to_mermaid

from dataflows.connectors.source import LogSource
from dataflows.flow import build
from dataflows.replay import file_sinks
from packs.loader import load_packs

ROOT = Path(__file__).parents[2]

# Renaming a step loses its state on the next restart, without any error.
STEPS = (
    "ticks",
    "assemble",
    "renewals",
    "bases",
    "bars-and-bases",
    "normalize",
    "detect",
    "gather",
    "context",
    "market",
    "scatter",
    "score",
    "settle",
    "budget",
    "rows-file",
    "events-file",
)


def graph() -> str:
    """Return the flow's diagram."""
    packs = load_packs()
    flow = build(LogSource(Path("log"), packs.features), packs, file_sinks(Path("out")))
    return str(to_mermaid(flow))


def test_step_ids_are_storage_names() -> None:
    """The ids, in flow order, are exactly the released ones."""
    ids = [
        line.split("[")[0].removeprefix("detector.")
        for line in graph().splitlines()
        if line.startswith("detector.") and "[" in line and "--" not in line.split("[")[0]
    ]
    assert tuple(ids) == STEPS


def test_the_readme_shows_the_graph_that_runs() -> None:
    """The diagram in the README is generated, not drawn."""
    assert graph().strip() in (ROOT / "README.md").read_text()
