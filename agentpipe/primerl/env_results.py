"""EnvResults: the Results of an environment's tasks, each committed once it was sent on."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from agentpipe.core.result import Result
from agentpipe.errors import Unreachable
from agentpipe.sinks.stream import Nothing

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.core.groups import GroupEnd
    from agentpipe.sinks.stream import Stream

# Longest time in seconds until a commit is made or ``stop`` is noticed.
LOOK_S = 0.5
# Seconds to wait before a commit: a kill could lose an answer that is still on its way.
SETTLED_S = 5.0

log = logging.getLogger(__name__)


class EnvResults:
    """Reads in its own thread.

    A Result is committed ``SETTLED_S`` after ``answered`` was called for it. After a kill, Results
    that no client has received are read again.
    """

    def __init__(
        self,
        stream: Stream,
        prefix: str,
        deliver: Callable[[Result], None],
        look: Callable[[], None],
    ) -> None:
        """Deliver Results whose ids begin with ``prefix``.

        The stream must end after ``LOOK_S`` of silence. ``look`` is called often, and an exception
        from it ends ``run``.
        """
        self._stream, self._prefix = stream, prefix
        self._deliver, self._look = deliver, look
        self._lock = threading.Lock()
        self._read: deque[str] = deque()  # Task ids of uncommitted records, in order.
        self._open: dict[str, float] = {}  # Until when they must stay uncommitted.
        self._ended = threading.Event()

    def answered(self, task_id: str) -> None:
        """A client was sent the answer to this task; callable from any thread."""
        with self._lock:
            if task_id in self._open:
                self._open[task_id] = time.monotonic() + SETTLED_S

    def stop(self) -> None:
        """Make ``run`` return soon."""
        self._ended.set()

    def run(self) -> None:
        """Read until ``stop``; call it in the reading thread."""
        is_reached = True
        while not self._ended.is_set():
            try:
                self._follow()
                is_reached = True
            except Unreachable as error:
                if is_reached:
                    log.warning("results wait until the sink answers: %s", error)
                is_reached = False

    def _follow(self) -> None:
        """Read until a moment of silence; the stream holds all records that were read."""
        for entry in self._stream.entries():
            self._commit()
            if entry is not Nothing.NEW:
                self._take(entry)
            if self._ended.is_set():
                return
        self._look()
        self._commit()

    def _take(self, entry: Result | GroupEnd | None) -> None:
        self._look()
        if not isinstance(entry, Result) or not entry.task_id.startswith(self._prefix):
            self._read.append("")
            return
        with self._lock:
            self._open[entry.task_id] = math.inf
        self._read.append(entry.task_id)
        self._deliver(entry)

    def _commit(self) -> None:
        """Commit all records before the first whose answer a client may not have."""
        number, now = 0, time.monotonic()
        with self._lock:
            while self._read and self._open.get(self._read[0], 0.0) <= now:
                self._open.pop(self._read.popleft(), None)
                number += 1
        if number:
            self._stream.release(number)
