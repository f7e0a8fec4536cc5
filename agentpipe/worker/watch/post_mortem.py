"""Post-mortem: what happens to the tasks of a worker that froze or died.

A frozen worker is ended from outside, and only the run that froze it is blamed. After a death, each
run that had begun can be the cause, unless one of them was holding up all others. If the worker
died while it was stopped from outside, no run is to blame.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from agentpipe.brokers import may_have, open_store
from agentpipe.brokers.capabilities import BuriesWorkers, SparesTasks
from agentpipe.brokers.records import Claim, Settlement, Worker
from agentpipe.core.text import counted
from agentpipe.errors import AgentpipeError, Unreachable
from agentpipe.worker.watch.culprits import begun_in, culprits_of, executed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from agentpipe.brokers.base import Store
    from agentpipe.core.delivered import Delivered
    from agentpipe.settings import Settings
    from agentpipe.worker.watch.freeze_watch import FreezeWatch
    from agentpipe.worker.watch.last_word import HeldClaim, LastWordFile, Said

RETRY_S = 0.5
UNREAD_S = 2.0
HELD_IT = "it held the interpreter, and its worker was killed"
_NOT_STORED_YET = (
    "which tasks of worker process %d count a crash is not stored yet, and tried until it is: %s"
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CrashVerdict:
    """What a dead worker's tasks count, until the store has it.

    Attributes:
        give_back: Stores it.
    """

    give_back: Callable[[Store], None]
    said: Said
    settings: Settings

    @property
    def awaited_s(self) -> float:
        """How long its watcher waits for it before it ends.

        An idle worker had at most deliveries that it had not read. If the broker is away, none of
        these is worth the wait.
        """
        if self.said.claims or any(it.is_task for it in self.said.ahead):
            return math.inf
        return UNREAD_S if self.said.ahead else 0.0

    def store(self, patience_s: float = math.inf) -> None:
        """Repeat it until the store has it; give up after the lease and ``patience_s``.

        While nothing can be stored, no lease ends: a verdict that is given up then would count a
        crash for each task, by the lease, once the store is back. Any other error would come
        again: the verdict is given up with the lease.
        """
        began, has_said = time.monotonic(), False
        while (error := self._tried()) is not None:
            late_s = time.monotonic() - began - self.settings.lease_s
            is_outage = isinstance(error, Unreachable)
            if late_s >= (patience_s if is_outage else 0.0):
                log.warning(
                    "each task of worker process %d counts a crash: %s", self.said.pid, error
                )
                return
            if late_s >= 0 and not has_said:
                has_said = True
                log.warning(_NOT_STORED_YET, self.said.pid, error)
            time.sleep(RETRY_S)

    def _tried(self) -> AgentpipeError | None:
        try:
            with closing(open_store(self.settings)) as store:
                self.give_back(store)
        except AgentpipeError as error:
            return error
        return None


def end_frozen(word: LastWordFile, settings: Settings) -> CrashVerdict | None:
    """Kill the worker; its tasks are to be returned, counted for the culprit alone.

    Returns:
        What returns them, once stored; None if the worker continued meanwhile.
    """
    beats = word.beats
    culprits = culprits_of(word.read())
    with suppress(ProcessLookupError):
        os.kill(word.pid, signal.SIGSTOP)  # Its actions from here on would not count.
    said = word.read()
    if word.beats != beats:
        with suppress(ProcessLookupError):
            os.kill(said.pid, signal.SIGCONT)
        return None
    _say(said, culprits)
    _spare(said, culprits, settings)
    with suppress(ProcessLookupError):
        os.kill(said.pid, signal.SIGKILL)
    settlements = [_settlement(held, said.worker, culprits) for held in said.claims.values()]

    def give_back(store: Store) -> None:
        store.settle(settlements)
        store.leave(Worker(said.worker))

    return CrashVerdict(give_back, said, settings)


def of_dead(said: Said, settings: Settings, watch: FreezeWatch) -> CrashVerdict | None:
    """What returns the tasks of a worker that was killed, without waiting for its lease.

    Runs that had begun count a crash; the others do not. A worker that has left holds nothing. If
    the broker returns tasks when a connection ends, the store learns for each whether that counts.

    Args:
        said: The worker's last word.
        settings: For the store.
        watch: What the watcher saw. If the worker was held up when it died, only what it executed
            counts a crash: its neighbours would otherwise come back with it, die beside it each
            time, and be buried with it. If it was stopped, nothing counts.

    Returns:
        None if there is nothing to return, or the store learns of a death only by the lease.
    """
    if not said.worker or not any(map(partial(may_have, settings), (BuriesWorkers, SparesTasks))):
        return None
    held_by = executed(said) if watch.is_held_up else frozenset()
    culprits = frozenset() if watch.is_stopped else held_by or begun_in(said)
    worker, blamed = Worker(said.worker), _blamed(said, culprits)

    def give_back(store: Store) -> None:
        if isinstance(store, BuriesWorkers):
            store.bury(worker, blamed)
        elif isinstance(store, SparesTasks):
            if said.ahead:
                store.spare(*_by_blame(said, blamed, is_known=bool(held_by)))
            store.leave(worker)

    return CrashVerdict(give_back, said, settings)


def _blamed(said: Said, culprits: frozenset[int]) -> list[str]:
    """The ids of the tasks at these places."""
    return [held.task_id for place, held in said.claims.items() if place in culprits]


def _by_blame(
    said: Said, blamed: Collection[str], *, is_known: bool
) -> tuple[list[Delivered], list[Delivered]]:
    """Deliveries of all other tasks, and of these, each with what its run did.

    ``is_known``: whether what is blamed held the worker. Of several, any can have done it.
    """
    is_culprit = is_known and len(blamed) == 1
    begun = {held.task_id for held in said.claims.values() if held.begun}
    ended = {held.task_id for held in said.claims.values() if held.ended}
    ahead = [it._replace(begun=it.task_id in begun, ended=it.task_id in ended) for it in said.ahead]
    return (
        [it for it in ahead if it.task_id not in blamed],
        [it._replace(culprit=is_culprit) for it in ahead if it.task_id in blamed],
    )


def _say(said: Said, culprits: frozenset[int]) -> None:
    held = said.claims.values()
    blamed = [each.task_id for each in held if each.place in culprits]
    by = f" by task {', '.join(blamed)}" if blamed else ""
    back = counted(len(held) - len(blamed), "task")
    log.error("worker process %d is frozen%s: killed; %s released, uncounted", said.pid, by, back)


def _spare(said: Said, culprits: frozenset[int], settings: Settings) -> None:
    """Spare its tasks before it ends, if the store returns them at once when it does.

    Other stores are not opened: the frozen worker can hold a lock there.
    """
    if not may_have(settings, SparesTasks):
        return
    try:
        with closing(open_store(settings)) as store:
            if said.ahead and isinstance(store, SparesTasks):
                store.spare(*_by_blame(said, _blamed(said, culprits), is_known=True))
    except AgentpipeError as error:  # The worker must end anyway.
        log.warning("the tasks of the frozen worker may count a crash each: %s", error)


def _settlement(held: HeldClaim, worker: str, culprits: frozenset[int]) -> Settlement:
    claim = Claim(held.task_id, "", b"", worker, held.number)
    if held.place in culprits:
        return Settlement(claim, "crash", reason=HELD_IT)
    return Settlement(claim, "release")
