"""CancelMarks: cancelled tasks, by id, queue, run or group, and time of submission.

A waiting task cannot be found, so the mark waits for it: a worker that claims a marked task answers
``cancelled``. All workers receive each mark, and read the earlier ones when they join.

The clocks of sender and operator can differ. What is with a worker when that receives a mark was
submitted before the mark, and is covered whatever the clocks say. Of what waits on the server, only
the two times tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq.messages import now_ms
from agentpipe.brokers.rabbitmq.shared_state import SharedState, values_of
from agentpipe.brokers.rabbitmq.topology import LONGEST_DELAY_MS
from agentpipe.core.run_names import run_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agentpipe.brokers.capabilities import TaskFilter
    from agentpipe.brokers.rabbitmq.messages import Message
    from agentpipe.brokers.rabbitmq.topology import Topology
    from agentpipe.connections.amqp.connection import Session

# A marked task can be delayed this long, and wait a day more.
KEPT_MS = LONGEST_DELAY_MS + 86_400_000


class CancelMarks:
    """The marks known to one process: per key, the latest submission covered, in Unix ms."""

    def __init__(self, session: Session, topology: Topology) -> None:
        self._state = SharedState[int](session, topology.shared("cancels"), max, values_of(int))
        self.until_ms: dict[str, int] = {}

    def __contains__(self, message: Message) -> bool:
        return covers(self.until_ms, message)

    def note(self, until_ms: Mapping[str, int]) -> None:
        """Learn marks."""
        for key, until in until_ms.items():
            self.until_ms[key] = max(until, self.until_ms.get(key, 0))

    async def learn(
        self, until_ms: Mapping[str, int], here: Iterable[Message]
    ) -> Mapping[str, int]:
        """Learn marks that were just set, for all that they match among the tasks ``here``.

        Stores a mark on each that a wrong clock would spare; returns all these marks.
        """
        self.note(until_ms)
        late = {
            by_id(it.task_id): it.submitted_ms
            for it in here
            if not until_ms.keys().isdisjoint(_keys_of(it)) and not covers(until_ms, it)
        }
        if late:
            self.note(late)
            await self._state.add(late)
        return {**until_ms, **late}

    async def add(self, keys: Iterable[str]) -> dict[str, int]:
        """Store marks for everything submitted until now; returns them."""
        until_ms = dict.fromkeys(keys, now_ms())
        self.note(until_ms)
        await self._state.add(until_ms)
        return until_ms

    async def read(self) -> None:
        """Learn all stored marks, and drop old ones."""

        def drop_old(marks: dict[str, int]) -> None:
            oldest = now_ms() - KEPT_MS
            for key in [key for key, until in marks.items() if until < oldest]:
                del marks[key]

        self.note((await self._state.change(drop_old))[0])


def covers(until_ms: Mapping[str, int], message: Message) -> bool:
    """Whether any of these marks covers this task."""
    return any(until_ms.get(key, 0) >= message.submitted_ms for key in _keys_of(message))


def _keys_of(message: Message) -> list[str]:
    """The keys that match this task."""
    queue = message.queue
    keys = [by_id(message.task_id), by_queue(queue), by_queue(queue, message.group_id)]
    if run := run_of(message.task_id):
        keys.append(_by_run(queue, run))
    return keys


def by_id(task_id: str) -> str:
    """The key of a task."""
    return f"id {task_id}"


def by_filter(queue: str, wanted: TaskFilter) -> str:
    """The key of all tasks of a queue that match a filter."""
    if wanted.run is not None:
        return _by_run(queue, wanted.run)
    return by_queue(queue, wanted.group_id)


def _by_run(queue: str, run: str) -> str:
    return f"run {queue} {run}"


def by_queue(queue: str, group_id: str | None = None) -> str:
    """The key of all tasks of a queue, or of one group in it; queue names have no spaces."""
    return f"queue {queue}" if group_id is None else f"group {queue} {group_id}"
