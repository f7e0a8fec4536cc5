from __future__ import annotations

import gc

from agentpipe.core.garbage import NEW_OBJECTS, collect_rarely


def test_only_the_first_threshold_changes() -> None:
    before = gc.get_threshold()
    try:
        collect_rarely()
        assert gc.get_threshold() == (NEW_OBJECTS, *before[1:])
    finally:
        gc.set_threshold(*before)
