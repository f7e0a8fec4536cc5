"""Capacity: how many of its slots a worker fills; fewer for a while after a shortage.

All runs of the process share its threads, file descriptors, memory and disk. When one of these runs
short, fewer runs execute at once: half as many after each shortage, then slowly more. If even a
single run hits a shortage, earlier runs leaked the resource, and only a new process frees it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# Claim nothing for this long after a shortage: failures meanwhile count as the same shortage.
PAUSE_S = 0.5
# One twentieth of the slots becomes usable again at this interval.
RECOVER_EVERY_S, RECOVER_PART = 5.0, 20
LOG_EVERY_S = 30.0
# Most times that this process returns a task uncounted; after that its shortages are failures.
MAX_RETURNS = 10
MAX_TASKS = 10_000
# Resources of the process alone: ending the process frees them.
_OWN = frozenset({"open files", "threads"})
# This many shortages of a run alone, each soon after the last, mean a leak.
LEAKS_AFTER, SOON_S = 3, 30.0

log = logging.getLogger(__name__)


class Capacity:
    """How many slots of one process can be filled now; thread-safe.

    Attributes:
        held: Number of filled slots.
        leaked: The resource that ran out although the process runs almost nothing; empty if none.
        relieve: Called at a shortage; frees what is kept for later runs.
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
        """Number of slots that can still be filled."""
        with self._lock:
            self._slots = slots
            return max(0, self._limit_now() - self.held)

    def _note_alone(self, what: str, now: float) -> None:
        """Note that a run hit a shortage while alone."""
        self._alone = self._alone + 1 if now - self._alone_at < SOON_S else 1
        self._alone_at = now
        if self._alone >= LEAKS_AFTER:
            self.leaked = what

    def reduce(self, what: str) -> None:
        """Fill half as many slots after a shortage of ``what``; log it at intervals."""
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
        """Whether the task can be returned uncounted; counts the return.

        A task that ran alone and was returned before would not do better beside others.
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
    """Whether to log now, and the time of the last log."""
    due = now - logged_at >= LOG_EVERY_S
    return due, now if due else logged_at
