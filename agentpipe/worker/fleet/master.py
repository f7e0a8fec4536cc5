"""``dramatiq`` as the supervisor starts it: a master that keeps its environment private."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from agentpipe.core.parent import continue_when_orphaned
from agentpipe.engines.process.process_tree import children_of
from agentpipe.worker.watch.handover import receive

if TYPE_CHECKING:
    from types import FrameType


class _Ends(logging.Handler):
    """Records how the worker ended: Dramatiq logs its signal, but returns 1."""

    code = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the last argument of a critical line, if that can be an exit code."""
        *_, last = record.args if isinstance(record.args, tuple) and record.args else (0,)
        if record.levelno >= logging.CRITICAL and isinstance(last, int):
            self.code = last


def main() -> int:
    """Run Dramatiq with its own arguments; return its exit code.

    If a signal ended the worker, the same signal ends this process: its parent can then report it.
    """
    _pass_on_continuing()
    receive()
    from dramatiq.cli import main as dramatiq_main

    if sys.platform == "linux":
        # A fork server would be a separate program with a readable environment.
        multiprocessing.set_start_method("fork")
    ends = _Ends()
    logging.getLogger("dramatiq.MainProcess").addHandler(ends)
    code = int(dramatiq_main() or 0)  # type: ignore[no-untyped-call]  # Dramatiq has no types
    if ends.code < 0:
        _end_by(-ends.code)
    return code


def _pass_on_continuing() -> None:
    """Continue a stopped worker when the supervisor ends: it then sees that, and ends itself."""
    master = os.getpid()

    def pass_on(_kind: int, _frame: FrameType | None) -> None:
        for pid in children_of(master) if os.getpid() == master else ():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    signal.signal(signal.SIGCONT, pass_on)
    continue_when_orphaned()


def _end_by(kind: int) -> None:
    with suppress(OSError):  # SIGKILL cannot be handled.
        signal.signal(kind, signal.SIG_DFL)
    signal.raise_signal(kind)


if __name__ == "__main__":
    sys.exit(main())
