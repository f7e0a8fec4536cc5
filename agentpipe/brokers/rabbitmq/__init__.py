"""RabbitStore: tasks in RabbitMQ, for users who already run one.

AMQP has no transaction over a publish and an acknowledgement. To move a message between queues, we
publish a copy, wait for its confirmation, and only then acknowledge the original. A crash in
between duplicates the message but loses nothing. So a task runs at least once, and readers of the
stream see exactly one result.

Each agent has a queue for first offers, whose length the server limits, and an unbounded queue for
returned tasks. One worker at a time serves an agent, the one that has its lock, so an agent's
concurrency limit holds for the whole fleet. When a connection ends, the server redelivers what is
unacknowledged; the other workers leave its agents alone until its worker's lease is over.

Everything runs on the connection's event loop, and callers wait for it. Only ``Wakeup`` is shared
with their threads. Each of these parts imports only earlier ones:

- ``topology``, ``messages``: the queues, and a task in a queue. ``rpc``: requests to workers.
- ``shared_state``: a JSON document that all processes change. ``registry`` (queues, limits and
  pauses), ``cancel_marks``, ``drains``, ``runs``, ``suspects`` and ``verdicts`` are such documents.
  Workers keep ``cooldowns``.
- ``connection`` is data; ``services`` are the parts that all workers of a process share on it.
- ``worker`` composes one joined worker: ``membership`` (the workers of the fleet), ``assignment``
  (who serves which agent), ``introduction`` (when it says so), ``succession`` (another worker in
  its place, after a lost connection or channel), which inherits what this one has ``received``,
  ``resumption`` (of runs there), ``consumption``, ``exposed`` (why culprits wait), ``reception``
  and ``deliveries`` (prefetch, crashes, turns, last chances), ``direct_results`` (to a quick sink),
  ``settlement`` (publish, confirm, acknowledge), ``answers`` (to other processes). ``verdicts``
  decide whose crash counts, by notes (``ahead``).
- ``operations`` are the requests of operators and senders, besides the core here.

Limits of this broker: it remembers no ids, so a task sent twice runs twice. It cannot search a
queue, so a cancelled task that waits is answered at its turn. It has three priorities: below, at
and above 0.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from agentpipe.brokers.base import Store
from agentpipe.brokers.capabilities import Comparison
from agentpipe.brokers.rabbitmq.address import RabbitAddress
from agentpipe.brokers.rabbitmq.admission import Offering, offer_to_runs
from agentpipe.brokers.rabbitmq.direct_results import DirectResults, is_direct
from agentpipe.brokers.rabbitmq.letters import Letters
from agentpipe.brokers.rabbitmq.operations import LONG_S, RabbitOperations
from agentpipe.brokers.rabbitmq.services import Services, services_on
from agentpipe.brokers.rabbitmq.succession import replace_ended
from agentpipe.brokers.rabbitmq.tallies import MeasuresSeen
from agentpipe.brokers.rabbitmq.wakeup import Wakeup
from agentpipe.brokers.rabbitmq.worker import RabbitWorker
from agentpipe.brokers.records import Admission
from agentpipe.connections.amqp.channel import ChannelClosed
from agentpipe.connections.amqp.connection import ANSWER_S, Link, Session
from agentpipe.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Sequence

    from agentpipe.brokers.capabilities import NotesAhead
    from agentpipe.brokers.records import (
        Claim,
        ClaimRequest,
        Offer,
        OutboxRecord,
        Queue,
        Settlement,
        Verdict,
        Worker,
    )
    from agentpipe.connections.scratch import Scratch

T = TypeVar("T")
# A sender notices within this time that agents were added or removed.
GROUP_S = 5.0


class RabbitStore(RabbitOperations, Store):
    """The ``Store`` over ``amqp://`` and ``amqps://``; see ``Store`` for what each method promises.

    Raises:
        ConfigError: The URL is invalid.
        Unreachable: The server does not answer, or refuses the user or the vhost.
    """

    joins_with_nothing = True  # The lease is the connection's, and a new one begins.

    def __init__(self, url: str, settings: Settings) -> None:
        self._address = RabbitAddress.parse(url)
        # The server detects a silent connection after one to two heartbeat intervals.
        heartbeat_s = max(1, int(settings.lease_s / 2))
        self._link = Link(
            self._address.parameters(heartbeat_s), self._address.shown, own="?prefix="
        )
        self._declared: dict[str, Queue] = {}
        self._cursors: dict[str, int] = {}
        self._services: Services | None = None
        self._workers: dict[str, RabbitWorker] = {}
        self._opening = asyncio.Lock()
        self._joined: set[str] = set()
        self._notes: NotesAhead | None = None
        self._hurry: Callable[[], None] | None = None
        self._wakeup, self._measures = Wakeup(), MeasuresSeen()
        self._dead = Letters(self._run, lambda services: services.dead)
        self.undeliverable = Letters(self._run, lambda services: services.undeliverable)
        self._run(_nothing)

    @classmethod
    def scratch(cls, url: str, name: str) -> Scratch:
        """See ``MakesScratch``."""
        from agentpipe.brokers.rabbitmq.scratch import scratch_of

        return scratch_of(url, name, lambda own: cls(own, Settings(own)).remove_all())

    def remove_all(self) -> None:
        """Delete all queues and close."""
        from agentpipe.brokers.rabbitmq.scratch import remove_all

        self._run(remove_all, LONG_S)
        self.close()

    # Tasks.

    def declare(self, queues: Sequence[Queue]) -> None:
        groups = {queue.collection for queue in queues if queue.collection}
        for queue in list(self._declared.values()):
            if queue.collection in groups:
                del self._declared[queue.name]
        self._declared.update({queue.name: queue for queue in queues})
        names = [queue.name for queue in queues]
        self._run(lambda services: services.introduce(names))

    def offer(self, target: str, offers: Sequence[Offer], *, round_robin: bool) -> Admission:
        async def offer(services: Services) -> Admission:
            if round_robin:  # A newer file may have changed the group.
                await services.registry.read(GROUP_S)
            queues = services.registry.targets(target, round_robin=round_robin)
            if not queues:
                await services.registry.read()
                queues = services.registry.targets(target, round_robin=round_robin)
            if not queues:
                refused: Verdict = "refused"
                return Admission((refused,) * len(offers), 0, 0)
            offering = Offering(services, queues, self._cursors.get(target, 0))
            admission = await offer_to_runs(services.runs, offering, offers)
            self._cursors[target] = offering.cursor
            return admission

        return self._run(offer, LONG_S)

    def join(self, worker: Worker) -> None:
        async def join(services: Services) -> None:
            if worker.name in self._workers:  # The new one starts empty.
                await self._workers.pop(worker.name).close()
            joining = RabbitWorker(services, worker, self._wakeup, self._notes)
            await joining.open()
            self._workers[worker.name] = joining

        self._run(join)
        self._joined.add(worker.name)

    def note_ahead(self, notes: NotesAhead) -> None:
        self._notes = notes

    def hand_over(self, hurry: Callable[[], None]) -> None:
        self._hurry = hurry

    def heartbeat(self, worker: Worker, report: bytes | None = None) -> bool:
        async def renew(_: Services) -> bool:
            if (alive := self._alive(worker)) is not None:
                await alive.check()
                alive.heartbeat(report)
            return alive is not None

        return self._run(renew)

    def _alive(self, worker: Worker) -> RabbitWorker | None:
        """The worker, while its lease is valid."""
        found = self._workers.get(worker.name)
        return found if found is not None and found.is_alive else None

    @property
    def in_doubt(self) -> bool:
        return any(worker.is_in_doubt for worker in list(self._workers.values()))

    @property
    def awaited(self) -> frozenset[tuple[str, int]]:
        workers = list(self._workers.values())
        return frozenset(claim.key for worker in workers for claim in worker.awaited)

    def compare(
        self,
        worker: Worker,
        held: Collection[tuple[str, int]],
        forwarding: Collection[int] | None,
    ) -> Comparison:
        async def compare(_: Services) -> Comparison:
            alive = self._alive(worker)
            return Comparison() if alive is None else await alive.compare(held, forwarding)

        return self._run(compare)

    def leave(self, worker: Worker) -> int:
        self._joined.discard(worker.name)

        async def leave(services: Services) -> int:
            leaving = self._workers.pop(worker.name, None)
            services.outbox.take_back(worker.name)
            if leaving is None:  # A worker of another process, whose watcher has ended it.
                await services.say_ended([worker.name])
                return 0
            return await leaving.leave()

        return self._run(leave)

    def claim(self, request: ClaimRequest) -> list[Claim]:
        alive = self._alive(request.worker)
        if alive is not None and alive.has_nothing:  # A new delivery wakes the caller.
            return []
        claims = self._link.ask(lambda session: self._claim_known(session, request))
        return self._run(partial(self._claim, request)) if claims is None else claims

    def _claim_known(self, session: Session, request: ClaimRequest) -> list[Claim] | None:
        """Claim without asking the server; None if it has to be asked."""
        services, alive = self._services, self._alive(request.worker)
        if services is None or services.connection.session is not session or alive is None:
            return None
        above = services.outbox.is_known_above(request.outbox)
        if above is None:
            return None
        return [] if above else alive.claim_at_once(request.limit)

    async def _claim(self, request: ClaimRequest, services: Services) -> list[Claim]:
        name = request.worker.name
        if name in self._joined and name not in self._workers:
            raise ChannelClosed("its tasks are delivered again")  # Its heartbeat will fail.
        alive = self._alive(request.worker)
        if alive is None or await services.outbox.is_above(request.outbox):
            return []
        return await alive.claim(request.limit)  # Workers share agents, not the tasks of one.

    def wait(self, timeout_s: float) -> None:
        self._wakeup.wait(timeout_s)

    def take_cancelled(self) -> list[str]:
        return self._wakeup.take_cancelled()

    def settle_meanwhile(
        self, settlements: Sequence[Settlement], request: ClaimRequest | None
    ) -> tuple[Future[list[bool]], list[Claim] | None] | None:
        return self._link.ask(lambda session: self._settle_meanwhile(session, settlements, request))

    def _settle_meanwhile(
        self, session: Session, settlements: Sequence[Settlement], request: ClaimRequest | None
    ) -> tuple[Future[list[bool]], list[Claim] | None] | None:
        worker = self._workers.get(settlements[0].claim.worker)
        if worker is None or not worker.is_alive:
            return None
        settling, settled = worker.settling, Future[list[bool]]()
        settling.begin_beside(settlements, settled)
        by_outbox = partial(
            self._link.begin, lambda _: settling.settle_beside(settlements), ANSWER_S, settled
        )
        if self._hurry and settling.settle_directly(settlements, settled, by_outbox):
            self._hurry()
        else:
            by_outbox()
        return settled, [] if request is None else self._claim_known(session, request)

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        async def settle(_: Services) -> list[bool]:
            done = [False] * len(settlements)
            for name in {settlement.claim.worker for settlement in settlements}:
                mine = [at for at, it in enumerate(settlements) if it.claim.worker == name]
                if name in self._workers:
                    settling = self._workers[name].settling
                    settled = await settling.settle([settlements[at] for at in mine])
                    for at, was in zip(mine, settled, strict=True):
                        done[at] = was
            return done

        return self._run(settle)

    def take_outbox(self, worker: Worker, limit: int, max_bytes: int) -> list[OutboxRecord]:
        async def take(limit: int, services: Services) -> list[OutboxRecord]:
            if self._alive(worker) is None:
                return []
            return await services.outbox.take(worker.name, limit, max_bytes)

        if direct := self._direct(worker):
            return direct.take(limit, max_bytes, lambda most: self._run(partial(take, most)))
        return self._run(partial(take, limit))

    def _direct(self, worker: Worker) -> DirectResults | None:
        found = self._workers.get(worker.name) if self._hurry else None
        return None if found is None else found.settling.direct

    def drop_outbox(self, worker: Worker, numbers: Sequence[int]) -> None:
        async def drop(services: Services) -> None:
            services.outbox.drop(worker.name, numbers)

        passed = [number for number in numbers if is_direct(number)]
        if direct := self._direct(worker):
            direct.note_confirmed(passed, len(numbers))
            if passed:
                self._link.soon(partial(direct.confirm, passed))
        if len(passed) < len(numbers):
            self._run(drop)

    # The connection.

    def close(self) -> None:
        self._link.close(self._farewell)

    async def _farewell(self) -> None:
        if self._services is not None:
            if self._workers:  # Otherwise the others would wait for their leases.
                await self._services.say_ended(self._workers)
            await self._services.dead.close()
            await self._services.undeliverable.close()

    def _run(
        self, operation: Callable[[Services], Coroutine[Any, Any, T]], answer_s: float = ANSWER_S
    ) -> T:
        async def perform(session: Session) -> T:
            return await operation(await self._services_on(session))

        return self._link.run(perform, answer_s)

    async def _services_on(self, session: Session) -> Services:
        """The services of this session; after a lost one, also moves the workers to it."""
        known = self._services
        has_lost = any(it.is_cut_off() for it in self._workers.values())
        if known is not None and known.connection.session is session and not has_lost:
            return known
        async with self._opening:
            before, topology = self._services, self._address.topology
            services = await services_on(session, topology, self._declared, before)
            self._services = services
            await replace_ended(self._workers, services, self._notes)
            return services


async def _nothing(_: Services) -> None:
    """Do nothing, to connect only."""
