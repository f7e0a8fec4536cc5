"""RabbitOperations: the store's operations for operators and senders, besides its core."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from agentpipe.brokers.rabbitmq import inspection, management
from agentpipe.brokers.rabbitmq.cancel_marks import by_filter, by_id
from agentpipe.brokers.rabbitmq.moving import Moving
from agentpipe.brokers.rabbitmq.purge import Purge
from agentpipe.brokers.rabbitmq.rpc import Request
from agentpipe.brokers.rabbitmq.task_location import locate
from agentpipe.brokers.with_dead_letters import WithDeadLetters
from agentpipe.connections.amqp import health
from agentpipe.connections.amqp.connection import ANSWER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Sequence
    from typing import Any

    from agentpipe.brokers.breaker import Tripped
    from agentpipe.brokers.capabilities import Answer, Fate, TaskFilter, TaskSeen
    from agentpipe.brokers.dead_letter import DeadLetter
    from agentpipe.brokers.location import TaskLocation
    from agentpipe.brokers.rabbitmq.address import RabbitAddress
    from agentpipe.brokers.rabbitmq.letters import Letters
    from agentpipe.brokers.rabbitmq.services import Services
    from agentpipe.brokers.rabbitmq.tallies import MeasuresSeen
    from agentpipe.brokers.rabbitmq.worker import RabbitWorker
    from agentpipe.brokers.records import Refusal, Worker
    from agentpipe.brokers.runs import KeptRun
    from agentpipe.brokers.statistics import Stats
    from agentpipe.connections.amqp.connection import Link
    from agentpipe.connections.amqp.message import OutgoingMessage
    from agentpipe.connections.health import Finding
    from agentpipe.core.delivered import Delivered

T = TypeVar("T")
# Time limit of operations that create queues or take many messages.
LONG_S = 60.0


class RabbitOperations(WithDeadLetters, ABC):
    """Capabilities of the store that workers do not need to run tasks; see ``capabilities``."""

    _address: RabbitAddress
    _link: Link
    _services: Services | None
    _workers: dict[str, RabbitWorker]
    _measures: MeasuresSeen
    _dead: Letters
    undeliverable: Letters

    @abstractmethod
    def _run(
        self, operation: Callable[[Services], Coroutine[Any, Any, T]], answer_s: float = ANSWER_S
    ) -> T:
        """Run the operation on the connection's event loop and return its result."""

    def stats(self) -> Stats:
        def count(services: Services) -> Coroutine[Any, Any, Stats]:
            return inspection.count(services, self._address, self._measures)

        return self._run(count, LONG_S)  # Each missing queue costs a channel.

    def locate(self, task_id: str) -> TaskLocation:
        return self._run(lambda services: locate(services, task_id))

    def pause(
        self,
        *,
        queues: Sequence[str] = (),
        collections: Sequence[str] = (),
        paused: bool,
        reason: str = "",
    ) -> None:
        def pause(services: Services) -> Coroutine[Any, Any, bool]:
            return services.pause(queues, collections, paused=paused, reason=reason)

        self._run(pause)

    def drain(self, workers: Collection[str]) -> None:
        request = Request("drain", workers=frozenset(workers))
        self._run(lambda services: services.ask(request))

    def is_draining(self, worker: Worker) -> bool:
        joined = self._workers.get(worker.name)
        return joined is not None and joined.draining

    def note_drain(self, host: str | None) -> None:
        self._run(lambda services: services.drains.note(host))

    def last_drain(self, host: str) -> int:
        return self._run(lambda services: services.drains.last(host))

    def return_outbox(self, worker: Worker, numbers: Sequence[int]) -> None:
        async def put_back(services: Services) -> None:
            services.outbox.put_back(worker.name, numbers)

        self._run(put_back)

    def take_tripped(self) -> list[Tripped]:
        if self._services is None:
            return []
        tripped = self._services.breaker.tripped
        return [tripped.popleft() for _ in range(len(tripped))]

    def spare(self, spared: Sequence[Delivered], blamed: Sequence[Delivered]) -> None:
        self._run(lambda services: services.judge(spared, blamed))

    def cancel(self, task_ids: Sequence[str]) -> list[Fate]:
        ending = self._run(lambda services: services.cancel(list(map(by_id, task_ids))))
        return ["signalled" if task_id in ending else "marked" for task_id in task_ids]

    def cancel_matching(self, wanted: TaskFilter) -> list[str]:
        keys = [by_filter(name, wanted) for name in wanted.queues]
        return sorted(self._run(lambda services: services.cancel(keys)))

    def purge(self, queues: Sequence[str] | None, answer: Callable[[TaskSeen], Answer]) -> int:
        purge = Purge(queues)
        self._run(purge.open)
        purged = 0
        while tasks := self._run(purge.take, LONG_S):
            answers = [answer(task) for task in tasks]
            self._run(partial(purge.settle, tasks=tasks, answers=answers))
            purged += len(tasks)
        self._run(purge.close)
        return purged

    def move(self, collection: str, agents: Sequence[str], limit: int) -> int:
        async def move(services: Services) -> int:
            await services.registry.read()
            queues = services.registry.agents_of(collection)
            return await Moving(services, queues, limit).run(set(agents)) if queues else 0

        return self._run(move, LONG_S)

    def set_aside(self, worker: Worker, refusals: Sequence[Refusal]) -> None:
        async def set_aside(services: Services) -> None:
            mine = [it for it in refusals if services.outbox.lends(it.record.number, worker.name)]
            await services.publish([services.undeliverable.refused(each) for each in mine])
            services.outbox.drop(worker.name, [each.record.number for each in mine])

        self._run(set_aside)

    def deliver_again(self, task_ids: Sequence[str]) -> int:
        def message(services: Services, letter: DeadLetter) -> OutgoingMessage:
            return services.outbox.message(letter.task_id, letter.result)

        return self.undeliverable.move(task_ids, message)

    def progress(self, name: str, mark: int) -> int | None:
        return self._run(lambda services: services.progress(name, mark))

    def begin_run(self, name: str, record: bytes) -> bytes:
        return self._run(lambda services: services.runs.begin(name, record))

    def runs(self) -> list[KeptRun]:
        return self._run(lambda services: services.runs.read(), LONG_S)

    def drop_run(self, name: str) -> bool:
        return self._run(lambda services: services.runs.drop(name))

    def examine(self) -> list[Finding]:
        """Check the server over AMQP and by its management API."""
        return self._link.run(health.examine_broker) + management.examine(self._address)
