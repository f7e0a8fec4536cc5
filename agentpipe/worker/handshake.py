"""Handshake: Dramatiq's function that boots this worker, and when its master knows that it has.

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

# Dramatiq's function that boots a worker, and its variables; a contract test holds them.
MODULE, FUNCTION, VARIABLE, GOES_ON = "dramatiq.cli", "worker_process", "event", "running"


def has_booted() -> Callable[[], bool]:
    """Whether the master knows; for the thread that boots the worker, within its boot.

    Always true where a program of the user's runs the worker.
    """
    frame = boot_frame()
    if frame is None:
        return lambda: True
    event: Event = frame.f_locals[VARIABLE]
    return event.is_set


def boot_frame() -> FrameType | None:
    """The call that boots this worker, in the current thread; None where there is none."""
    boot = getattr(sys.modules.get(MODULE), FUNCTION, None)
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 - documented, for CPython
    while frame is not None and (boot is None or frame.f_code is not boot.__code__):
        frame = frame.f_back
    return frame
