"""How often Python looks for objects that refer to each other in circles.

Rules of this file: hardly anything here does, so that nearly all memory comes back by counting
references; a search walks through every row and state that is alive, and with Python's own
thresholds (every 700 new containers) it took a third of the time of a replay, with 50,000 still a
tenth. A replay of 22,000 rows leaves 3,500 objects that only a search would find.
"""

import gc

# By how many more containers there must be before the youngest are searched: gigabytes, in effect
# only where something leaks. Of those searches, one in so many is of the older ones.
YOUNG, MIDDLE, OLD = 5_000_000, 20, 50


def collect_rarely() -> None:
    """Search less often from now on, in this process."""
    gc.freeze()  # modules and packs are here to stay
    gc.set_threshold(YOUNG, MIDDLE, OLD)
