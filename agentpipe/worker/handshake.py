"""Handshake: Dramatiq's function that boots this worker, and when its master is notified.

The worker sets an event whose lock both processes share. If the worker is killed while it sets the
event, because its first run holds the interpreter, the master waits for that lock forever. So
nothing is claimed before the event is set.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.synchronize import Event
    from types import FrameType

# Dramatiq's function that boots a worker, and its variables; a contract test covers them.
MODULE, FUNCTION, VARIABLE, GOES_ON = "dramatiq.cli", "worker_process", "event", "running"


def has_booted() -> Callable[[], bool]:
    """Return a check whether the master was notified; for the thread that boots the worker.

    The check is always true if a user's program runs the worker.
    """
    frame = boot_frame()
    if frame is None:
        return lambda: True
    event: Event = frame.f_locals[VARIABLE]
    return event.is_set


def boot_frame() -> FrameType | None:
    """The call that boots this worker, on the current thread's stack; None if there is none."""
    boot = getattr(sys.modules.get(MODULE), FUNCTION, None)
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 - documented, for CPython
    while frame is not None and (boot is None or frame.f_code is not boot.__code__):
        frame = frame.f_back
    return frame
