"""``dramatiq`` as the supervisor starts it: a master that keeps its environment to itself."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import sys
from contextlib import suppress

from agentpipe.worker.watch.handover import receive


class _Ends(logging.Handler):
    """How the worker ended: Dramatiq logs its signal, and returns 1."""

    code = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Note the last of a line's arguments, if that may be an exit code."""
        *_, last = record.args if isinstance(record.args, tuple) and record.args else (0,)
        if record.levelno >= logging.CRITICAL and isinstance(last, int):
            self.code = last


def main() -> int:
    """Dramatiq's exit code; it takes the same arguments.

    Where a signal ended the worker, the same signal ends this process, so that its parent can say
    which it was.
    """
    receive()
    from dramatiq.cli import main as dramatiq_main

    if sys.platform == "linux":
        # A fork server would be a program of its own, with the environment to be read there.
        multiprocessing.set_start_method("fork")
    ends = _Ends()
    logging.getLogger("dramatiq.MainProcess").addHandler(ends)
    code = int(dramatiq_main() or 0)  # type: ignore[no-untyped-call]  # Dramatiq has no types
    if ends.code < 0:
        _end_by(-ends.code)
    return code


def _end_by(kind: int) -> None:
    with suppress(OSError):  # SIGKILL cannot be handled.
        signal.signal(kind, signal.SIG_DFL)
    signal.raise_signal(kind)


if __name__ == "__main__":
    sys.exit(main())
