"""One thing that the doctor looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Check:
    """A check. found : what is there, in a line. advice : what to do, empty when it is ok."""

    name: str
    verdict: Verdict
    found: str
    advice: str = ""
