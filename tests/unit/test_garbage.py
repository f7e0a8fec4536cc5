from __future__ import annotations

import gc

from agentpipe.core.garbage import NEW_OBJECTS, YOUNG_COLLECTIONS, collect_rarely


def test_new_objects_are_looked_at_in_portions_and_old_ones_rarely() -> None:
    *_, oldest = before = gc.get_threshold()
    try:
        collect_rarely()
        assert gc.get_threshold() == (NEW_OBJECTS, YOUNG_COLLECTIONS, oldest)
        assert gc.get_freeze_count()
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
