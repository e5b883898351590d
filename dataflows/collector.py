"""How often Python looks for objects that refer to each other in circles.

Rules of this file: hardly anything here does, so that nearly all memory comes back by counting
references; a search walks through every row and state that is alive, and with Python's own
thresholds (every 700 new containers) it took a third of the time of a replay.
"""

import gc

# New containers between searches of the youngest; of those, one in so many is of the older ones.
YOUNG, MIDDLE, OLD = 50_000, 20, 50


def collect_rarely() -> None:
    """Search less often from now on, in this process."""
    gc.set_threshold(YOUNG, MIDDLE, OLD)
