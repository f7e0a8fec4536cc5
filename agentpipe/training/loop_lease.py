"""LoopLease: one trainer at a time has a loop's name, and tells the broker that it lives."""

from __future__ import annotations

import logging
import math
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

import orjson

from agentpipe.brokers import open_store
from agentpipe.brokers.capabilities import KeepsLoops, require
from agentpipe.core.loop_holds import LoopHold, LoopState, taken_text
from agentpipe.core.processes import is_alive, stat_of
from agentpipe.errors import LoopTaken, StoreError, Unreachable
from agentpipe.sending.patience import until_it_answers

if TYPE_CHECKING:
    from agentpipe.brokers.base import Store
    from agentpipe.settings import Settings

# After so long without a word of its trainer another may take a loop.
LEASE_S = 15.0
BEAT_S = 3.0
LOOK_S = 0.5
# It goes on while the process is stopped, and while the machine sleeps.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

log = logging.getLogger(__name__)
wait = time.sleep


class LoopLease:
    """A loop's name, held by a thread of its own until ``close``.

    Within ``LEASE_S`` of the last answer of the broker no other trainer can have it.
    """

    def __init__(self, store: Store, name: str) -> None:
        """Of this store, which this closes; ``take`` it before all else.

        Raises:
            ConfigError: It keeps no loops.
        """
        self._store = store
        self._keeper = require(store, KeepsLoops, "keep the loops of trainers apart")
        self.hold = LoopHold(name, secrets.token_hex(8))
        self._report = orjson.dumps(_process())
        self._sure_until = -math.inf
        self._taken: LoopState | None = None
        self._one_at_a_time = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="agentpipe-loop", daemon=True)

    @classmethod
    def open(cls, name: str, settings: Settings) -> Self:
        """The loop of that name on ``settings.broker``, taken.

        Raises:
            ConfigError: The broker keeps no loops.
            LoopTaken: Another trainer lives that has it.
            Unreachable: The broker does not answer.
        """
        store = open_store(settings)
        try:
            lease = cls(store, name)
            lease.take()
        except BaseException:
            store.close()
            raise
        return lease

    def take(self) -> None:
        """Take it; where another trainer has it, as soon as that has ended or is silent.

        Raises:
            LoopTaken: That trainer lives: it was heard meanwhile.
        """
        found, before = self._ask(), math.inf
        while found.token != self.hold.token:
            if _gives_way(found):
                found, before = self._ask(instead_of=found.token), math.inf
                continue
            if found.silent_s < before < math.inf:
                raise LoopTaken(taken_text(self.hold.name, found))
            if before == math.inf:
                text = "loop %r has a trainer, %s: waiting up to %.0f s for its end"
                log.warning(text, self.hold.name, found.holder, LEASE_S)
            before = found.silent_s
            wait(LOOK_S)
            found = self._ask()
        self._thread.start()

    def _ask(self, instead_of: str = "") -> LoopState:
        with self._one_at_a_time:
            asked = time.clock_gettime(_CLOCK)
            hold = partial(self._keeper.hold_loop, self.hold, self._report, lease_s=LEASE_S)
            found = hold(instead_of=instead_of)
            if found.token == self.hold.token:
                self._sure_until = asked + LEASE_S
            elif self._sure_until > -math.inf:
                self._taken = found
            return found

    def _beat(self) -> None:
        while self._taken is None and not self._ended.wait(BEAT_S):
            with suppress(Unreachable, StoreError):
                self._ask()

    def refuse_if_taken(self) -> None:
        """Go on only while no other trainer has the loop; waits for the broker if that is unsure.

        Once it is closed, what the loop did is over, and its state may still be read.

        Raises:
            LoopTaken: Another has it.
        """
        unsure = time.clock_gettime(_CLOCK) >= self._sure_until and not self._ended.is_set()
        if self._taken is None and unsure:
            until_it_answers(self._ask, waits="the trainer")
        if self._taken is not None:
            raise LoopTaken(taken_text(self.hold.name, self._taken))

    def close(self) -> None:
        """Let it go; another trainer may take it at once. Once is enough."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._thread.join()
        with suppress(Unreachable, StoreError):
            self._keeper.drop_loop(self.hold)
        self._store.close()


def _process() -> dict[str, str | int]:
    """This one, for people, and for others of the same machine to see whether it has ended."""
    stat = stat_of(os.getpid())
    started = "" if stat is None else stat.started
    host = socket.gethostname()
    return {"host": host, "pid": os.getpid(), "started": started, "place": _place()}


def _place() -> str:
    """Where a pid means the same process: this boot, and its namespace; empty if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _gives_way(state: LoopState) -> bool:
    """Whether its process is known to be gone, or is this one, as in a notebook's cell run again.

    That of another machine is not known.
    """
    said = state.said
    if said == _process():
        return True
    pid, place = said.get("pid"), said.get("place")
    if not isinstance(pid, int) or not place or place != _place():
        return False
    stat = stat_of(pid)
    return not is_alive(pid) or (stat is not None and stat.started != said.get("started"))
