"""ChildProcess: one ``dramatiq agentpipe.actors`` with its worker, and its last word."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.core.processes import is_alive
from agentpipe.worker.times import SHUTDOWN_S
from agentpipe.worker.watch import handover
from agentpipe.worker.watch.freeze_watch import FreezeWatch, freeze_limit_s, is_stopped
from agentpipe.worker.watch.last_word import LastWordFile
from agentpipe.worker.watch.post_mortem import end_frozen, of_dead

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.settings import Settings
    from agentpipe.worker.watch.post_mortem import CrashVerdict

# How long the master waits in its handshake with a worker; it ignores signals meanwhile.
HANDSHAKE_MS = 500


class ChildProcess:
    """Starts in its own session, so Ctrl-C reaches it once, through the supervisor.

    Attributes:
        started_at: On the monotonic clock.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self.started_at = time.monotonic()
        # Settings for stores opened in this process on the worker's behalf.
        self._alone = replace(settings, supervisor_pid=0)
        self._word = LastWordFile.make()
        limit_s = freeze_limit_s(settings.lease_s)
        self._watch = FreezeWatch(limit_s, lambda: is_stopped(self._word.pid))
        self._ending: threading.Thread | None = None
        self._storing: threading.Thread | None = None
        self._owes_until = 0.0
        self._was_ended = False
        self._process = handover.start(
            _command(settings),
            {**environ, "AGENTPIPE_LAST_WORD_FILE": self._word.path},
            self._word.files,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The worker's pid, or the pid of Dramatiq's master before there is a worker."""
        return self._word.pid or self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code; None while it runs, or while its frozen worker is being ended."""
        if self._ending is not None and self._ending.is_alive():
            return None
        return self._process.poll()

    @property
    def cause(self) -> str:
        """What ended it, for the log; a signal hit the worker, unless the worker still runs."""
        code = self._process.returncode
        if code >= 0:
            return f"exit code {code}"
        by = f"killed by {signal.Signals(-code).name}"
        return f"its master was {by}" if self.worker_lives else by

    @property
    def has_served(self) -> bool:
        """Whether its worker ever served: if so, an exit code is not about the boot."""
        return self._word.serves

    @property
    def drains(self) -> bool:
        """Whether its worker was drained or draining when it ended."""
        return self._word.drains

    @property
    def is_over(self) -> bool:
        """Whether its worker is gone, and what that held was returned."""
        return not (self.worker_lives or self.owes_verdict)

    @property
    def owes_verdict(self) -> bool:
        """Whether it is not stored yet what the tasks of its dead worker count."""
        storing = self._storing if time.monotonic() < self._owes_until else None
        return any(each is not None and each.is_alive() for each in (self._ending, storing))

    @property
    def worker_lives(self) -> bool:
        """Whether the worker runs, possibly longer than its master."""
        return bool(self._word.pid) and is_alive(self._word.pid)

    def check(self) -> None:
        """End its worker if that is frozen; return the tasks of a dead worker.

        Both run in threads, so other children are watched meanwhile.
        """
        if self._was_ended or (self._ending is not None and self._ending.is_alive()):
            return
        is_frozen = self._watch.is_frozen(self._word.beats)
        if not self.has_served:
            if is_frozen:
                self.end_unserved()
            return
        if not self.worker_lives:
            self._was_ended = True
            self._store(of_dead(self._word.read(), self._alone, self._watch))
        elif is_frozen:
            self._ending = threading.Thread(target=self._end_frozen, daemon=True)
            self._ending.start()

    def end_unserved(self) -> None:
        """Kill a worker whose master died while it booted: frozen, it cannot end by itself.

        It holds nothing. One with a master can take long to import, and is left alone.
        """
        if self._process.poll() is not None and not self.has_served and self.worker_lives:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _store(self, verdict: CrashVerdict | None) -> None:
        """Store in a thread, so the replacement does not wait: the broker can be away."""
        if verdict is not None:
            self._storing = threading.Thread(target=verdict.store, daemon=True)
            self._storing.start()
            self._owes_until = time.monotonic() + verdict.awaited_s

    def _end_frozen(self) -> None:
        verdict = end_frozen(self._word, self._alone)
        if verdict is not None:
            self._was_ended = True
            self._process.kill()  # The master of a worker that is gone.
            self._store(verdict)

    def signal(self, kind: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self._process.poll() is None:
            self._process.send_signal(kind)

    def kill(self) -> None:
        """Kill the whole session: Dramatiq's master and the worker below it."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def forget(self) -> None:
        """Release the file of a process that has ended and was replaced."""
        self._word.close()


def _command(settings: Settings) -> list[str]:
    # Covers the grace, and settling and draining the outbox.
    timeout_ms = int((settings.grace_s + 4 * SHUTDOWN_S) * 1000)
    command = [
        sys.executable,
        "-m",
        "agentpipe.worker.fleet.master",
        "agentpipe.actors",
        "--skip-logging",
    ]
    command += ["--processes", "1"]
    command += ["--worker-fork-timeout", str(HANDSHAKE_MS)]
    return [*command, "--worker-shutdown-timeout", str(timeout_ms)]
