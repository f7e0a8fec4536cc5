"""Handshake: when Dramatiq's master knows that its worker has booted.

The worker sets an event whose lock both processes share. If it is killed while it does, because its
first run holds the interpreter, the master waits for that lock for ever. So nothing is claimed
before the event is set.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.synchronize import Event
    from types import FrameType

# Dramatiq's function that boots a worker, and its variable; a contract test holds them.
MODULE, FUNCTION, VARIABLE = "dramatiq.cli", "worker_process", "event"


def has_booted() -> Callable[[], bool]:
    """Whether the master knows; for the thread that boots the worker, within its boot.

    Always true where a program of the user's runs the worker.
    """
    boot = getattr(sys.modules.get(MODULE), FUNCTION, None)
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 - documented, for CPython
    while frame is not None:
        if boot is not None and frame.f_code is boot.__code__:
            event: Event = frame.f_locals[VARIABLE]
            return event.is_set
        frame = frame.f_back
    return lambda: True
