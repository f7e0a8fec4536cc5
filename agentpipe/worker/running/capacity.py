"""Capacity: how many of its slots a worker fills, fewer for a while after a shortage.

Threads, file descriptors, memory and disk belong to all runs of the process. Where they do not
suffice, fewer runs at once do: half as many after each shortage, and slowly more again. Where even
one run finds none, earlier ones have left some open, and only a new process has all of them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# After a shortage nothing is claimed for this long: what fails meanwhile is the same shortage.
PAUSE_S = 0.5
# One twentieth of the slots is filled again this often.
RECOVER_EVERY_S, RECOVER_PART = 5.0, 20
LOG_EVERY_S = 30.0
# So often a task is returned uncounted by this process; after that its shortages are its failures.
MAX_RETURNS = 10
MAX_TASKS = 10_000
# What a process has of its own, and gets back when it ends.
_OWN = frozenset({"open files", "threads"})
# So many runs in a row, each alone and soon after the last, find nothing left.
LEAKS_AFTER, SOON_S = 3, 30.0

log = logging.getLogger(__name__)


class Capacity:
    """How many slots of one process may be filled at the moment; from any thread.

    Attributes:
        held: How many are filled.
        leaked: What the process has no more of, although it runs hardly anything; else empty.
        relieve: Called at a shortage: gives back what is kept for later runs.
    """

    def __init__(self) -> None:
        self.held = 0
        self.relieve: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._slots = self._limit = 0
        self._short_at: float | None = None
        self._logged_at = float("-inf")
        self._returned: OrderedDict[str, int] = OrderedDict()
        self._alone = 0
        self._alone_at = float("-inf")
        self.leaked = ""

    def free(self, slots: int) -> int:
        """How many more of these slots to fill."""
        with self._lock:
            self._slots = slots
            return max(0, self._limit_now() - self.held)

    def _note_alone(self, what: str, now: float) -> None:
        """A run that was alone has found no more of it."""
        self._alone = self._alone + 1 if now - self._alone_at < SOON_S else 1
        self._alone_at = now
        if self._alone >= LEAKS_AFTER:
            self.leaked = what

    def reduce(self, what: str) -> None:
        """A run has found no more of ``what``: fill half of the slots, and say so at times."""
        with self._lock:
            now = time.monotonic()
            if self._short_at is not None and now - self._short_at < PAUSE_S:
                return
            if what in _OWN and self.held <= 1:
                self._note_alone(what, now)
            running = min(self._limit_now(), max(1, self.held))
            self._limit, self._short_at = max(1, running // 2), now
            says, self._logged_at = _says(now, self._logged_at)
        self.relieve()
        if says:
            log.warning(
                "this worker is short of %s: it fills %d of %d slots, and slowly more again; "
                "raise the machine's limit, or lower --slots",
                what,
                self._limit,
                self._slots,
            )

    def may_return(self, task_id: str) -> bool:
        """Whether the task may go back uncounted; counts that it does.

        One that ran alone, and has been back before, would not do better in other company.
        """
        with self._lock:
            returned = self._returned.pop(task_id, 0) + 1
            self._returned[task_id] = returned
            if len(self._returned) > MAX_TASKS:
                self._returned.popitem(last=False)
            return returned <= (MAX_RETURNS if self.held > 1 else 1)

    def _limit_now(self) -> int:
        if self._short_at is None:
            return self._slots
        gone_s = time.monotonic() - self._short_at
        if gone_s < PAUSE_S:
            return 0
        step = max(1, self._slots // RECOVER_PART)
        limit = self._limit + int(gone_s / RECOVER_EVERY_S) * step
        if limit >= self._slots:
            self._short_at = None
        return min(limit, self._slots)


def _says(now: float, logged_at: float) -> tuple[bool, float]:
    """Whether to log now, and when that was done last."""
    due = now - logged_at >= LOG_EVERY_S
    return due, now if due else logged_at
