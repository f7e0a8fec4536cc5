"""Tune Python's garbage collector for processes with many waiting runs."""

from __future__ import annotations

import gc

# Net allocations that trigger a young collection. It walks what was created since the last one and
# still lives, and all threads wait: a few milliseconds while a thousand agents start, ten and more
# once each runs task after task. The more allocations, the fewer of these pauses, and the longer
# while much is created.
NEW_OBJECTS = 20_000
# Young collections before a middle one. At Python's defaults of 700 and 10, a thousand concurrent
# agent requests trigger hundreds of middle collections. Each walks everything that those requests
# hold, which takes over a third of the process's time.
YOUNG_COLLECTIONS = 25


def collect_rarely() -> None:
    """Collect less often, for some megabytes more memory, and never scan existing objects again."""
    *_, oldest = gc.get_threshold()
    gc.set_threshold(NEW_OBJECTS, YOUNG_COLLECTIONS, oldest)
    gc.freeze()
