"""Supervisor: keeps N one-process Dramatiq workers running, and ends them.

Dramatiq stops all of its workers when one dies. One Dramatiq per worker, and a replacement for each
that dies, keeps the other workers' runs going.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.core.processes import is_alive
from agentpipe.engines.process.process_tree import children_of
from agentpipe.errors import StoreError, Unreachable
from agentpipe.worker.fleet.child_environ import child_environ
from agentpipe.worker.fleet.child_process import ChildProcess
from agentpipe.worker.fleet.lives import MAX_PAUSE_OF_MISTAKES_S, Lives
from agentpipe.worker.times import SHUTDOWN_S
from agentpipe.worker.watch.freeze_watch import LOOK_EVERY_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType

    from agentpipe.settings import Settings

SAY_EVERY_S = 30.0
FIRST_PROCESS = 1
CONFIG_ERROR = 2
INTERRUPTED = 130

_CANNOT_START = (
    "worker %d cannot start for the mistake above: the other workers go on, and it is tried again "
    "with growing pauses of up to %g s until that is mended"
)

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Place:
    """The place of one worker process, and its current process.

    Attributes:
        lives: The lives of its earlier processes.
        is_drained: Whether it stays empty.
    """

    process: ChildProcess
    lives: Lives = field(default_factory=Lives)
    is_drained: bool = False
    restart_at: float = 0.0


class Supervisor:
    """Runs ``dramatiq agentpipe.actors`` N times until a signal, or until all is done."""

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        processes: int,
        is_done: Callable[[], bool] | None,
    ) -> None:
        self._settings, self._processes, self._is_done = settings, processes, is_done
        self._environ = child_environ(settings, environ)
        self._places: list[_Place] = []
        self._replaced: list[ChildProcess] = []
        self._signals: list[int] = []
        self._has_served = False
        self._unknown, self._unknown_said_at = "", 0.0

    def run(self) -> int:
        """Return the exit code: 0 when done or after SIGTERM, 130 after Ctrl-C, 2 on a mistake."""
        before = {kind: signal.signal(kind, self._note) for kind in (signal.SIGINT, signal.SIGTERM)}
        try:
            return self._run()
        finally:
            self._kill()
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def _run(self) -> int:
        if self._done():
            return 0
        for _ in range(self._processes):
            if self._signals:
                break
            self._places.append(_Place(self._start()))
        while not self._signals and not self._is_orphan():
            self._beat()
            if self._done():
                self._stop()
                return 0
            if any(self._replace(place) for place in self._places):
                self._stop()
                return CONFIG_ERROR
            self._watch_replaced()
            self._reap_orphans()
            if self._are_drained():
                log.info("all workers are drained")
                return 0
            time.sleep(LOOK_EVERY_S)
        interrupted = self._signals[:1] == [signal.SIGINT]
        log.info("ending: runs have %g s to finish", self._settings.grace_s)
        self._stop()
        return INTERRUPTED if interrupted else 0

    def _beat(self) -> None:
        """Show `agentpipe probe live` that this loop runs: it replaces frozen workers."""
        if self._settings.heartbeat_file:
            with suppress(OSError):  # A full disk must not end the supervisor.
                Path(self._settings.heartbeat_file).touch()

    def _reap_orphans(self) -> None:
        """Reap orphans: as a container's first process, this one inherits them."""
        if os.getpid() != FIRST_PROCESS:
            return
        for pid in set(children_of(FIRST_PROCESS)) - {child.pid for child in self._children()}:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)

    def _is_orphan(self) -> bool:
        """Whether the process that replaces this one after changes is gone."""
        parent = self._settings.supervisor_pid
        return bool(parent) and not is_alive(parent)

    def _done(self) -> bool:
        try:
            return self._is_done is not None and self._is_done()
        except (Unreachable, StoreError) as error:
            self._say_unknown(str(error))
            return False

    def _say_unknown(self, why: str) -> None:
        """Log each reason once, and again at intervals: the check runs several times a second."""
        now = time.monotonic()
        if why != self._unknown or now - self._unknown_said_at >= SAY_EVERY_S:
            log.warning("unknown whether all is done: %s", why)
            self._unknown, self._unknown_said_at = why, now

    def _start(self) -> ChildProcess:
        return ChildProcess(self._settings, self._environ)

    def _replace(self, place: _Place) -> bool:
        """Restart a dead child when it is due.

        Returns:
            Whether it ended because of a mistake in a file, and no worker has served yet.
        """
        child = place.process
        child.check()
        self._has_served = self._has_served or child.has_served
        if (code := child.code) is None or place.is_drained:
            return False
        if child.drains:
            place.is_drained = True
            log.info("worker %d is drained (%s): not replaced", child.pid, child.cause)
            return False
        # Once it has served, an agent's code can exit with any code.
        is_mistake = code == CONFIG_ERROR and not child.has_served
        if is_mistake and not self._has_served:
            return True
        if not place.restart_at:
            self._plan_restart(place, is_mistake=is_mistake)
        if time.monotonic() >= place.restart_at:
            self._replaced.append(child)
            place.process, place.restart_at = self._start(), 0.0
        return False

    def _plan_restart(self, place: _Place, *, is_mistake: bool) -> None:
        child, now, lives = place.process, time.monotonic(), place.lives
        place.restart_at = now + lives.pause_s(
            now - child.started_at, has_served=child.has_served, is_mistake=is_mistake
        )
        if not is_mistake:
            log.warning("worker %d died (%s): replaced", child.pid, child.cause)
        elif lives.mistakes == 1:
            log.error(_CANNOT_START, child.pid, MAX_PAUSE_OF_MISTAKES_S)

    def _are_drained(self) -> bool:
        """Whether nothing runs here any more, and nothing will be restarted."""
        return all(place.is_drained and place.process.is_over for place in self._places)

    def _watch_replaced(self) -> None:
        """Watch workers whose master died: they keep their grace, and can freeze in it."""
        for child in list(self._replaced):
            child.check()
            if child.is_over:
                self._replaced.remove(child)
                child.forget()

    def _stop(self) -> None:
        """Send SIGTERM and wait; a second signal is passed on and ends them at once."""
        self._signal(signal.SIGTERM)
        passed_on, again_at = 0, float("inf")
        deadline = time.monotonic() + self._settings.grace_s + 4 * SHUTDOWN_S
        while self._look_after_all() and time.monotonic() < deadline:
            if len(self._signals) > max(1, passed_on) or time.monotonic() >= again_at:
                # A busy process merges two signals into one: send another to those that still run.
                passed_on, again_at = len(self._signals), time.monotonic() + 3.0
                self._signal(signal.SIGTERM)
            self._beat()
            time.sleep(LOOK_EVERY_S / 2)

    def _look_after_all(self) -> bool:
        """Check every child; returns whether a worker runs, or its verdict is not stored yet.

        One that has died since the last look gets its verdict here. A second signal waits for none.
        """
        lives = bool(self._living())
        if not lives and len(self._signals) > 1:
            return False
        for child in self._children():
            child.check()
        return lives or any(child.owes_verdict for child in self._children())

    def _children(self) -> list[ChildProcess]:
        return [*self._replaced, *(place.process for place in self._places)]

    def _living(self) -> list[ChildProcess]:
        return [place.process for place in self._places if place.process.code is None]

    def _signal(self, kind: signal.Signals) -> None:
        for child in self._living():
            child.signal(kind)

    def _kill(self) -> None:
        for child in self._living():
            child.kill()
        for child in self._children():
            child.end_unserved()

    def _note(self, kind: int, _frame: FrameType | None) -> None:
        self._signals.append(kind)
