"""Python's garbage collector, for processes in which many runs wait."""

from __future__ import annotations

import gc

# New objects that start a collection of them, which is a pause of all threads: a millisecond.
NEW_OBJECTS = 5_000
# Such collections until what they have kept is looked at. At Python's 700 and 10, a thousand
# requests of agents at once start hundreds, and each walks through what all of them hold: more than
# a third of the process's time.
YOUNG_COLLECTIONS = 100


def collect_rarely() -> None:
    """Let more garbage gather, some megabytes of it, and never look again at what there is now."""
    *_, oldest = gc.get_threshold()
    gc.set_threshold(NEW_OBJECTS, YOUNG_COLLECTIONS, oldest)
    gc.freeze()
