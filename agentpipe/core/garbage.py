"""Python's garbage collector, for processes in which many runs wait."""

from __future__ import annotations

import gc

# New objects that start a collection. At Python's 700, a thousand requests of agents at once start
# hundreds, and each walks through what all of them hold: more than a third of the process's time.
NEW_OBJECTS = 50_000


def collect_rarely() -> None:
    """Let more garbage gather, some megabytes of it, between two collections."""
    _, *older = gc.get_threshold()
    gc.set_threshold(NEW_OBJECTS, *older)
