"""What the documents list is what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path

from dataflows.connectors import ticklog
from dataflows.inbox import Verdict
from dataflows.outbox import Dropped
from dataflows.settings import PREFIX, Settings
from operators import feed, wire

ROOT = Path(__file__).parents[1]


def test_the_readme_lists_every_setting() -> None:
    """No variable is hidden, none is made up."""
    table = (ROOT / "README.md").read_text()
    listed = set(re.findall(rf"`({PREFIX}[A-Z_]+)`", table))
    assert listed == {PREFIX + name.upper() for name in Settings.model_fields}


def test_the_readme_shows_a_real_event() -> None:
    """The event in the README is the first one of the pinned replay."""
    text = (ROOT / "README.md").read_text()
    shown = json.loads(text.split("```json")[1].split("```")[0])
    pinned = ROOT / "fixtures" / "golden" / "episodes" / "events-v0.2.ndjson"
    assert shown in [json.loads(line) for line in pinned.read_text().splitlines()]


def test_the_tick_log_page_lists_every_reason() -> None:
    """Each counter that a replay can print is explained."""
    page = (ROOT / "docs" / "ticklog.md").read_text()
    reasons = {
        value
        for module, names in (
            (ticklog, ("FRAME_TOO_LARGE", "TORN_LINE", "CORRUPT_SEGMENT")),
            (wire, ("NOT_JSON", "UNKNOWN_CHANNEL", "WRONG_SHAPE")),
            (wire, ("BAD_PRICE", "BAD_SIZE", "BAD_SIDE", "BAD_TIME")),
            (feed, ("BAD_LINE", "CLOCK_BACKWARDS", "CLOCK_JUMP", "UNKNOWN_COIN")),
            (feed, ("BAD_ENTRY", "VENUE_ERROR")),
        )
        for value in (getattr(module, name) for name in names)
    }
    assert all(f"`{reason}`" in page for reason in reasons)


def test_the_consumer_page_lists_every_verdict_and_count() -> None:
    """What becomes of a message, and of an event on its way to a channel."""
    page = (ROOT / "docs" / "consumer.md").read_text()
    words = [*Verdict, *Dropped, "delivered", "waiting"]
    assert [word for word in words if f"| `{word}` |" not in page] == []


def test_links_between_documents_lead_somewhere() -> None:
    """Paths in code spans that look like files of the tree exist."""
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for path in re.findall(
            r"`((?:dataflows|operators|packs|docs|tests)/[\w./-]+)`", page.read_text()
        ):
            assert (ROOT / path).exists(), f"{page.name}: {path}"
