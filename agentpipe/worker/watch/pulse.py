"""Pulse: beats while the interpreter lives, and ends a process whose parents are gone.

Its thread does nothing else, so a server that does not answer, a full log or a hung main thread
cannot stop it. It must never wait for another thread.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from agentpipe.core.parent import Parent, continue_when_orphaned
from agentpipe.core.processes import is_alive
from agentpipe.worker.times import SHUTDOWN_S
from agentpipe.worker.watch import handover
from agentpipe.worker.watch.freeze_watch import BEAT_S, freeze_limit_s

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.settings import Settings
    from agentpipe.worker.watch.last_word import LastWord

# Added to the watcher's limit, for a worker that has lost its watcher.
PATIENCE_S = 15.0
# Retry interval for a guard that cannot start.
GUARD_EVERY_S = 10.0

log = logging.getLogger(__name__)


class Pulse(threading.Thread):
    """Beats for the watcher, and watches the processes that started this one.

    A worker whose parents are gone ends. While it boots it ends at once: it holds nothing. Later it
    stops claiming, gets SIGTERM, and has its grace. Then it is killed: its main thread can hang,
    for example in the handshake with a dead Dramatiq master.

    Attributes:
        word: Where it beats.
        orphaned: Called once when a parent is gone.
        may_end: Whether Dramatiq runs the process, not a user's program.
    """

    def __init__(self, word: LastWord, settings: Settings) -> None:
        super().__init__(name="agentpipe-pulse", daemon=True)
        self.orphaned: Callable[[], None] = lambda: None
        self.word, self._settings = word, settings
        self._supervisor_pid = settings.supervisor_pid
        self._parent = Parent.of_this_process()
        # If a user's program runs the worker, the user decides when it ends.
        self.may_end = self._parent.is_python
        if self.may_end:
            continue_when_orphaned()
        self._served = threading.Lock()
        self._serves = False
        self._ends_by: float | None = None
        # In processor time, which stands still while the machine or the process does.
        self._patience_s = freeze_limit_s(settings.lease_s) + PATIENCE_S
        self._guard: subprocess.Popen[bytes] | None = None
        self._guard_at = 0.0

    def serve(self, worker: str, slots: int) -> None:
        """Note that the process holds tasks from now on."""
        with self._served:
            self._serves = True
            self.word.serve(worker, slots)
            if self.may_end:  # At once: the first run can hold the interpreter.
                self._keep_guard()

    def run(self) -> None:
        """Beat until the process ends."""
        while True:
            self.word.beat()
            if self.may_end:
                signal.setitimer(signal.ITIMER_PROF, self._patience_s)
                with self._served:
                    self._keep_guard()
                self._check_parents()
            time.sleep(BEAT_S)

    def _keep_guard(self) -> None:
        """Start or restart a watching process, if there is no supervisor."""
        if not self._serves or self._settings.supervisor_pid or sys.platform != "linux":
            return
        now = time.monotonic()
        if now >= self._guard_at and (self._guard is None or self._guard.poll() is not None):
            self._guard_at = now + GUARD_EVERY_S
            command = [sys.executable, "-m", "agentpipe.worker.watch.guard", self.word.path]
            files = self.word.files
            self._guard = handover.start(command, os.environ, files, stdin=subprocess.DEVNULL)

    def _check_parents(self) -> None:
        if self._ends_by is not None:
            if time.monotonic() >= self._ends_by:
                os.kill(os.getpid(), signal.SIGKILL)
        elif self._is_orphaned():
            with self._served:
                if not self._serves:
                    os._exit(1)
            self._ends_by = time.monotonic() + self._settings.grace_s + 4 * SHUTDOWN_S
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Thread(target=self._say, daemon=True).start()

    def _is_orphaned(self) -> bool:
        if self._parent.is_gone():
            return True
        return bool(self._supervisor_pid) and not is_alive(self._supervisor_pid)

    def _say(self) -> None:
        """Log in a separate thread: the log can be a pipe without a reader."""
        self.orphaned()
        log.warning("the process that started this worker is gone: the worker ends, too")
