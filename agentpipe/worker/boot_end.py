"""BootEnd: ends a worker that gets SIGTERM while it boots, or that cannot boot.

Dramatiq only notes the signal during the boot. A worker whose agents take a minute to import would
continue for that minute, and could claim tasks only to release them. It only logs an error, too: a
worker that cannot start a thread would live on, and serve nothing.
"""

from __future__ import annotations

import logging
import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agentpipe.worker.handshake import GOES_ON, VARIABLE, boot_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.synchronize import Event
    from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGHUP)

log = logging.getLogger(__name__)


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


@contextmanager
def ended_on_failure(*, may_end: bool) -> Iterator[None]:
    """End the process, with exit code 1, if this step of its boot fails; nothing is held yet.

    Without ``may_end`` a user's program runs the worker, and gets the error.
    """
    try:
        yield
    except Exception as error:
        if not may_end:
            raise
        log.exception("this worker cannot start: it ends and is replaced")
        raise SystemExit(1) from error
