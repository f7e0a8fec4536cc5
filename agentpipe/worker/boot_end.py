"""BootEnd: a worker that gets SIGTERM while it boots ends at once, with exit code 0.

Dramatiq only notes the signal during the boot. A worker whose agents take a minute to import would
continue for that minute, and could claim tasks only to release them.
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
    """End on SIGTERM or SIGHUP until the returned function is called; for the booting thread.

    Nothing is held yet, so the process exits without unwinding, which an import could catch. If a
    user's program runs the worker, nothing changes.
    """
    frame = boot_frame()
    if frame is None:
        return lambda: None
    booted: Event = frame.f_locals[VARIABLE]

    def end(_kind: int, _frame: FrameType | None) -> None:
        booted.set()  # The master waits for it and ignores signals meanwhile.
        os._exit(0)

    before = {kind: signal.signal(kind, end) for kind in SIGNALS}
    if not frame.f_locals[GOES_ON]:  # The signal came before.
        end(signal.SIGTERM, None)

    def over() -> None:
        for kind, handler in before.items():
            signal.signal(kind, handler)

    return over
