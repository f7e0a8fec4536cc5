"""BootEnd: a worker that gets SIGTERM while it boots ends at once, with exit code 0.

Dramatiq only notes the signal then. A worker whose agents take a minute to import would go on for
that minute, and might claim tasks to give them back.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from agentpipe.worker.handshake import GOES_ON, VARIABLE, boot_frame

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.synchronize import Event
    from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGHUP)


def end_while_booting() -> Callable[[], None]:
    """From now on until the returned function is called; in the thread that boots the worker.

    Nothing is held yet, so the process ends without unwinding: an import might catch that. Where a
    program of the user's runs the worker, nothing is changed.
    """
    frame = boot_frame()
    if frame is None:
        return lambda: None
    booted: Event = frame.f_locals[VARIABLE]

    def end(_kind: int, _frame: FrameType | None) -> None:
        booted.set()  # The master waits for it, deaf to signals.
        os._exit(0)

    before = {kind: signal.signal(kind, end) for kind in SIGNALS}
    if not frame.f_locals[GOES_ON]:  # It came before.
        end(signal.SIGTERM, None)

    def over() -> None:
        for kind, handler in before.items():
            signal.signal(kind, handler)

    return over
