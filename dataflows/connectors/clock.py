"""The machine's clocks and its dice: the only place that reads them.

Everything else in the code base is handed a `Clock` (or the stamps it produced), so that a run can
be repeated from its log alone. Design 2.
"""

import random
import time
from typing import Protocol


class Clock(Protocol):
    """What a connector may ask of the machine it runs on."""

    def now_ns(self) -> int:
        """Return wall time, epoch nanoseconds, UTC; it may step back when it is corrected."""

    def monotonic_s(self) -> float:
        """Return seconds since an arbitrary instant; never goes back. For timeouts and pacing."""

    def jitter(self) -> float:
        """Return a number in [0, 1) that differs between processes; spreads retries."""

    def sleep(self, seconds: float) -> None:
        """Block the calling thread."""


class SystemClock:
    """The real clocks."""

    def now_ns(self) -> int:
        """Return the system's wall time in nanoseconds."""
        return time.time_ns()

    def monotonic_s(self) -> float:
        """Return the system's monotonic time in seconds."""
        return time.monotonic()

    def jitter(self) -> float:
        """Return a pseudo-random number in [0, 1)."""
        return random.random()

    def sleep(self, seconds: float) -> None:
        """Block the calling thread."""
        time.sleep(seconds)


def backoff_s(clock: Clock, failures: int, base_s: float, limit_s: float) -> float:
    """Return the pause before the next try: doubling per failure, half of it random.

    failures : consecutive failures so far, 0 or 1 give the base. base_s, limit_s : seconds.
    """
    full = min(limit_s, base_s * 2.0 ** min(max(failures - 1, 0), 30))
    return full * (0.5 + 0.5 * clock.jitter())
