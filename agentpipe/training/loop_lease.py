"""LoopLease: reserves a loop's name for one trainer at a time, with heartbeats to the broker."""

from __future__ import annotations

import logging
import math
import os
import secrets
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from agentpipe.brokers import open_store
from agentpipe.brokers.capabilities import KeepsLoops, require
from agentpipe.core.closing import closed_on_error
from agentpipe.core.loop_holds import LEASE_S, LoopHold, taken_text
from agentpipe.core.processes import is_alive, stat_of
from agentpipe.errors import LoopTaken, StoreError, Unreachable
from agentpipe.sending.patience import until_it_answers
from agentpipe.training.loop_report import LoopReport, place, process

if TYPE_CHECKING:
    from agentpipe.brokers.base import Store
    from agentpipe.core.loop_holds import LoopState
    from agentpipe.settings import Settings

BEAT_S = 3.0
LOOK_S = 0.5
# A clock that keeps running while the process is stopped and while the machine sleeps.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

log = logging.getLogger(__name__)
wait = time.sleep


class LoopLease:
    """A loop's name, held by heartbeats from a thread until ``close``.

    Within ``LEASE_S`` of the broker's last answer no other trainer can take it.
    """

    def __init__(self, store: Store, name: str, report: LoopReport | None = None) -> None:
        """Use this store, which ``close`` closes; call ``take`` before anything else.

        Raises:
            ConfigError: The store does not support loops.
        """
        self._store = store
        self._keeper = require(store, KeepsLoops, "keep the loops of trainers apart")
        self.hold = LoopHold(name, secrets.token_hex(8))
        self.report = LoopReport() if report is None else report
        self._sure_until = -math.inf
        self._lost = ""  # Why the lease was lost.
        self._owner = os.getpid()
        self._one_at_a_time = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="agentpipe-loop", daemon=True)

    @classmethod
    def open(cls, name: str, settings: Settings, report: LoopReport | None = None) -> Self:
        """Take the loop of that name on ``settings.broker``.

        Raises:
            ConfigError: The broker does not support loops.
            LoopTaken: Another live trainer has it.
            Unreachable: The broker does not answer.
        """
        store = open_store(settings)
        with closed_on_error(store):
            lease = cls(store, name, report)
            lease.take()
        return lease

    def take(self) -> None:
        """Take the name; if another trainer has it, wait until that one has ended or is silent.

        Raises:
            LoopTaken: The other trainer is alive: a heartbeat arrived while this one waited.
        """
        found, before = self._take(), math.inf
        while found.token != self.hold.token:
            if _gives_way(found):
                found, before = self._take(instead_of=found.token), math.inf
                continue
            if found.silent_s < before < math.inf:
                raise LoopTaken(taken_text(self.hold.name, found))
            if before == math.inf:
                text = "loop %r has a trainer, %s: waiting up to %.0f s for its end"
                log.warning(text, self.hold.name, found.holder, LEASE_S)
            before = found.silent_s
            wait(LOOK_S)
            found = self._take()
        self._thread.start()

    def _take(self, instead_of: str = "") -> LoopState:
        asked, report = time.clock_gettime(_CLOCK), self.report.encode()
        found = self._keeper.hold_loop(self.hold, report, lease_s=LEASE_S, instead_of=instead_of)
        if found.token == self.hold.token:
            self._sure_until = asked + LEASE_S
        return found

    def _keep(self) -> None:
        with self._one_at_a_time:
            asked, report = time.clock_gettime(_CLOCK), self.report.encode()
            found = self._keeper.keep_loop(self.hold, report, lease_s=LEASE_S)
            if found is not None and found.token == self.hold.token:
                self._sure_until = asked + LEASE_S
            else:
                self._lost = taken_text(self.hold.name, found)

    def _beat(self) -> None:
        while not (self._lost or self._ended.wait(BEAT_S)):
            with suppress(Unreachable, StoreError):
                self._keep()

    def refuse_if_taken(self) -> None:
        """Return only if no other trainer has the loop; if unsure, wait for the broker.

        After ``close`` this no longer asks the broker: the loop is over, and its state can still
        be read.

        Raises:
            LoopTaken: Another trainer has the loop.
        """
        unsure = time.clock_gettime(_CLOCK) >= self._sure_until and not self._ended.is_set()
        if unsure and not self._lost:
            until_it_answers(self._keep, waits="the trainer")
        if self._lost:
            raise LoopTaken(self._lost)

    @property
    def is_of_parent(self) -> bool:
        """Whether this process is a fork of the lease's owner."""
        return os.getpid() != self._owner

    def close(self) -> None:
        """Release the name, so another trainer can take it; does nothing twice or in a fork."""
        if self._ended.is_set() or self.is_of_parent:
            return
        self._ended.set()
        self._thread.join()
        with suppress(Unreachable, StoreError):
            self._keeper.drop_loop(self.hold)
        self._store.close()


def _gives_way(state: LoopState) -> bool:
    """Whether the holder is known to be dead, or is this process (a notebook cell run again).

    A process on another machine counts as alive.
    """
    said, ours = state.said, process()
    if {name: said.get(name) for name in ours} == ours:
        return True
    pid, theirs = said.get("pid"), said.get("place")
    if not isinstance(pid, int) or not theirs or theirs != place():
        return False
    stat = stat_of(pid)
    return not is_alive(pid) or (stat is not None and stat.started != said.get("started"))
