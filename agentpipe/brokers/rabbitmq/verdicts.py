"""Verdicts: which tasks are to blame for the death of their worker, and which are not.

The end of a connection does not show what ran on it. The worker's watcher knows, and publishes a
verdict when it ends the worker, or as soon as the worker has died. A task without a verdict counts
a crash.

A worker notes what is delivered as it reads it, so it can die with deliveries that have no note:
these had not begun. The verdict names the agents that it served, and the next worker of such an
agent spares what it finds without a verdict of its own.

A verdict applies to the task as it was delivered to one worker. A verdict on an earlier death, or a
late one, must not apply to the next death. So a blamed task is replaced by a copy with another
number. A spared task, unless it is a suspect, is not copied, because both copies would exist if its
worker were killed before the acknowledgement; instead, we store that the verdict was carried out.

Clocks of machines differ. So a later verdict has a higher number than all that its watcher finds,
and the server, or who has heard it, measures the time after which it is forgotten.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq.messages import now_ms
from agentpipe.brokers.rabbitmq.shared_state import SharedState, values_of
from agentpipe.core.delivered import UNREAD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from agentpipe.brokers.rabbitmq.topology import Topology
    from agentpipe.connections.amqp.connection import Session
    from agentpipe.core.delivered import Delivered

# The server redelivers a dead worker's tasks before its watcher has opened a connection.
PATIENCE_S = 2.0
# How long a watcher waits to read the earlier verdicts.
READ_S = 0.2
# The worker that receives the tasks may have to boot first.
KEPT_S = 60.0
_REPORT = f"{UNREAD} "


def patience_s(lease_s: float) -> float:
    """How long a worker with that lease waits for a verdict: well within the lease."""
    return min(PATIENCE_S, lease_s / 4)


class Verdicts:
    """The verdicts known to one process: the number of each, negative for blame.

    A later verdict has a higher number: about Unix ms, so that it is higher than forgotten ones.
    Further keys of a task store the same number if it is spared although it had run, if it is known
    to have ended its worker, or if no other task can have ended it, and the number of the
    verdict that was carried out.
    """

    def __init__(self, session: Session, topology: Topology) -> None:
        queue, kept_ms = topology.shared("verdicts"), round(KEPT_S * 1000)
        self._state = SharedState[int](session, queue, _later, values_of(int), kept_ms=kept_ms)
        self._said: dict[str, int] = {}
        # When each was heard, on the monotonic clock.
        self._heard_at: dict[str, float] = {}
        self._heard = asyncio.Event()

    async def add(self, spared: Iterable[Delivered], blamed: Iterable[Delivered]) -> dict[str, int]:
        """Store a verdict on each task; returns what other processes have to note.

        The next worker waits ``PATIENCE_S`` for it, and many watchers want the lock after a common
        death. Without the lock, the number is too low if the clock is behind an earlier watcher's.
        """
        self.note(await self._state.read_soon(READ_S))
        spared, blamed = list(spared), list(blamed)
        number = max(now_ms(), 1 + max(map(abs, self._said.values()), default=0))
        had_run = [it for it in spared if it.begun or it.ended]
        said = dict.fromkeys(map(_key, spared), number) | dict.fromkeys(map(_key, blamed), -number)
        said |= dict.fromkeys(map(_begun, had_run), number)
        said |= dict.fromkeys((_culprit(it) for it in blamed if it.culprit), number)
        if len(blamed) == 1:
            said |= dict.fromkeys(map(_alone, blamed), number)
        await self._add(said)
        return said

    def had_begun(self, spared: Delivered) -> bool:
        """Whether the task's run had begun, or ended, when its worker, or an earlier one, died."""
        return _begun(spared) in self._said

    def is_culprit(self, blamed: Delivered) -> bool:
        """Whether this task is known to have ended its worker."""
        return self._is_said(_culprit(blamed), blamed)

    def is_only_suspect(self, blamed: Delivered) -> bool:
        """Whether no other task can have ended its worker."""
        return self._is_said(_alone(blamed), blamed)

    def _is_said(self, key: str, blamed: Delivered) -> bool:
        """Whether the verdict that blames the task says this, too."""
        return self._said.get(key, 0) == -self._said.get(_key(blamed), 0) > 0

    async def carry_out(self, spared: Iterable[Delivered]) -> dict[str, int]:
        """Mark these verdicts as carried out; returns what other processes have to note."""
        done = {_done(it): abs(self._said[_key(it)]) for it in spared if self.is_open(it)}
        if done:
            await self._add(done)
        return done

    async def _add(self, said: Mapping[str, int]) -> None:
        self.note(said)
        await self._state.add(said)

    def note(self, said: Mapping[str, int]) -> None:
        """Learn verdicts, and forget old ones."""
        now = time.monotonic()
        for key in [key for key, at in self._heard_at.items() if now - at > KEPT_S]:
            del self._said[key], self._heard_at[key]
        for key, number in said.items():
            if self._said.get(key) != (last := _later(self._said.get(key, 0), number)):
                self._said[key], self._heard_at[key] = last, now
        self._heard.set()
        self._heard = asyncio.Event()

    async def read(self) -> None:
        """Learn all stored verdicts."""
        self.note(await self._state.read())

    async def blame(
        self, delivered: Delivered, patience_s: float, is_reported: Callable[[], bool]
    ) -> bool:
        """Whether the death of the worker that had this counts.

        Without a verdict it does, unless the death was reported: then the task lay unread there.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while not (self.is_open(delivered) or is_reported()):
                    await self._heard.wait()
        if self.is_open(delivered):
            return self._said[_key(delivered)] < 0
        return not is_reported()

    def is_open(self, delivered: Delivered) -> bool:
        """Whether there is a verdict that was not carried out yet."""
        return abs(self._said.get(_key(delivered), 0)) > self._said.get(_done(delivered), 0)


def reported_in(said: Iterable[str]) -> list[str]:
    """The agents whose worker's end these verdicts report."""
    return [key.removeprefix(_REPORT) for key in said if key.startswith(_REPORT)]


def _key(delivered: Delivered) -> str:
    return f"{delivered.number} {delivered.task_id}"


def _done(delivered: Delivered) -> str:
    return f"done {_key(delivered)}"


def _begun(delivered: Delivered) -> str:
    return f"begun {_key(delivered)}"


def _culprit(delivered: Delivered) -> str:
    return f"culprit {_key(delivered)}"


def _alone(delivered: Delivered) -> str:
    return f"alone {_key(delivered)}"


def _later(one: int, other: int) -> int:
    return max(one, other, key=abs)
