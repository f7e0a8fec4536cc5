"""State: what a toy store's file holds, and the steps of which operations are made."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import astuple, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import orjson

from agentpipe.brokers.capabilities import Answer, TaskSeen
from agentpipe.brokers.dead_letter import DeadLetter
from agentpipe.brokers.location import AgentSeen, ClaimSeen, TaskLocation
from agentpipe.brokers.records import Claim
from agentpipe.brokers.statistics import RECENT_S, Tally, WorkerSeen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.brokers.capabilities import Fate
    from agentpipe.brokers.location import Place
    from agentpipe.brokers.records import Offer, Queue, Settlement, Worker


@dataclass(slots=True)
class QueueState:
    collection: str | None
    position: int | None  # In its ring; None outside any, or when it left.
    max_waiting: int
    concurrency: int
    max_crashes: int
    concurrency_group: str | None
    concurrency_group_limit: int
    held_until: float = 0.0
    run_s: float | None = None

    @property
    def cooldown_s(self) -> float:
        return max(0.0, self.held_until - time.time())


@dataclass(slots=True)
class TaskState:
    queue: str
    payload: str
    priority: int
    number: int  # Its place among its equals.
    submitted_at: float
    state: Literal["waiting", "delayed", "running", "settled"] = "waiting"
    changes_at: float = 0.0  # When a delay is over, or a settled id forgotten.
    worker: str = ""
    claim: int = 0
    failures: int = 0
    crashes: int = 0
    error: str = ""
    cancelled: bool = False
    claimed_at: float = 0.0
    settled_at: float = 0.0

    @property
    def place(self) -> tuple[int, int]:
        return self.priority, self.number


@dataclass(slots=True)
class ResultState:
    number: int
    task_id: str
    payload: str
    ended_at: float
    taker: str = ""


@dataclass(slots=True)
class WorkerState:
    host: str
    pid: int
    slots: int
    lease_s: float
    beat: float
    queues: list[str]
    report: str = ""

    @property
    def lives(self) -> bool:
        return time.time() < self.beat + self.lease_s


@dataclass(slots=True)
class State:
    """All of it; bytes are kept as texts of one character each."""

    queues: dict[str, QueueState] = field(default_factory=dict)
    turns: dict[str, int] = field(default_factory=dict)  # When each queue was served last.
    cursors: dict[str, int] = field(default_factory=dict)  # Where each ring goes on.
    tasks: dict[str, TaskState] = field(default_factory=dict)
    outbox: list[ResultState] = field(default_factory=list)
    dead: dict[str, dict[str, Any]] = field(default_factory=dict)
    workers: dict[str, WorkerState] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    tallies: dict[str, list[Any]] = field(default_factory=dict)  # The age is when it failed.
    ended: list[float] = field(default_factory=list)  # When the last tasks did.
    accepted: int = 0
    delivered: int = 0
    last_number: int = 0
    paused_queues: list[str] = field(default_factory=list)
    paused_collections: list[str] = field(default_factory=list)

    @classmethod
    def parse(cls, data: bytes) -> State:
        fields = orjson.loads(data or b"{}")
        for name, kind in (("queues", QueueState), ("tasks", TaskState), ("workers", WorkerState)):
            fields[name] = {key: kind(**value) for key, value in fields.get(name, {}).items()}
        fields["outbox"] = [ResultState(**value) for value in fields.get("outbox", ())]
        return cls(**fields)

    def next_number(self) -> int:
        self.last_number += 1
        return self.last_number

    def declare(self, queues: Sequence[Queue]) -> None:
        rings = {queue.collection for queue in queues} - {None}
        for known in self.queues.values():
            known.position = None if known.collection in rings else known.position
        for position, queue in enumerate(queues):
            limits = (queue.max_waiting, queue.concurrency, queue.max_crashes)
            place = None if queue.collection is None else position
            held_until = 0.0
            if queue.name in self.queues:
                held_until = self.queues[queue.name].held_until
            gate = (queue.concurrency_group, queue.concurrency_group_limit)
            self.queues[queue.name] = QueueState(
                queue.collection, place, *limits, *gate, held_until
            )

    def join(self, worker: Worker) -> None:
        seen = (worker.host, worker.pid, worker.slots, worker.lease_s, time.time())
        self.workers[worker.name] = WorkerState(*seen, sorted(worker.queues))

    def count(self, state: str) -> Counter[str]:
        """How many tasks of each queue are in this state."""
        return Counter(task.queue for task in self.tasks.values() if task.state == state)

    def tally(self, queue: str) -> Tally:
        """What has ended of it."""
        tally = Tally(*self.tallies.get(queue, ()))
        failed_at = tally.error_s
        return replace(tally, error_s=None if failed_at is None else time.time() - failed_at)

    def add_to_tally(self, settlement: Settlement) -> None:
        queue = settlement.claim.queue
        tally = self.tally(queue) + Tally.of(settlement)
        failed_at = None if tally.error_s is None else time.time() - tally.error_s
        self.tallies[queue] = [*astuple(tally)[:-1], failed_at]

    def recent(self) -> int:
        return sum(time.time() - ended_at < RECENT_S for ended_at in self.ended)

    def undelivered_s(self) -> float:
        return max((time.time() - result.ended_at for result in self.outbox), default=0.0)

    def outbox_bytes(self) -> int:
        return sum(len(result.payload) for result in self.outbox)

    def pass_time(self) -> None:
        """What became due: workers that died, delays that are over, ids to be forgotten."""
        for name in [name for name, worker in self.workers.items() if not worker.lives]:
            self.end_worker(name, crashes=1)
        for task_id, task in list(self.tasks.items()):
            if task.state == "delayed" and time.time() >= task.changes_at:
                task.state = "waiting"
            elif task.state == "settled" and time.time() >= task.changes_at:
                del self.tasks[task_id]

    def end_worker(self, name: str, *, crashes: int) -> int:
        """Put back what the worker held."""
        held = [task for task in self.tasks.values() if task.worker == name]
        for task in held:
            task.state, task.worker, task.crashes = "waiting", "", task.crashes + crashes
        for result in self.outbox:
            result.taker = "" if result.taker == name else result.taker
        self.workers.pop(name, None)
        return len(held)

    def targets(self, target: str, *, round_robin: bool) -> list[str]:
        """The queues that an offer may go to, in ring order."""
        if not round_robin:
            return [target] if target in self.queues else []
        places = ((q.position, name) for name, q in self.queues.items() if q.collection == target)
        return [name for _, name in sorted((at, name) for at, name in places if at is not None)]

    def admit(self, offer: Offer, queue: str) -> None:
        now = time.time()
        self.accepted += 1
        self.tasks[offer.task_id] = TaskState(
            queue, _text(offer.payload), offer.priority, self.next_number(), now
        )
        if offer.delay_s > 0:
            self.delay(self.tasks[offer.task_id], offer.delay_s)

    def delay(self, task: TaskState, delay_s: float) -> None:
        task.state, task.changes_at = "delayed", time.time() + delay_s

    def gate_room(self) -> dict[str | None, int]:
        """For how many runs there is room behind each gate."""
        running = self.count("running")
        room = {it.concurrency_group: it.concurrency_group_limit for it in self.queues.values()}
        for name, queue in self.queues.items():
            room[queue.concurrency_group] -= running[name]
        return {gate: left for gate, left in room.items() if gate is not None}

    def ready(self, worker: Worker) -> dict[str, deque[str]]:
        """What the worker could claim, by queue: as much as may run, the first ones first."""
        running, found = self.count("running"), dict[str, deque[str]]()
        alone = any(t.worker == worker.name and self.is_last_chance(t) for t in self.tasks.values())
        for task_id, task in sorted(self.tasks.items(), key=lambda item: item[1].place):
            if task.state != "waiting" or task.queue not in worker.queues:
                continue
            room = self.queues[task.queue].concurrency - running[task.queue]
            last_chance = self.is_last_chance(task)
            held = self.queues[task.queue].cooldown_s > 0 or self.is_paused(task.queue)
            if room > 0 and not held and not (alone and last_chance):
                found.setdefault(task.queue, deque()).append(task_id)
                running[task.queue] += 1
                alone = alone or last_chance
        return found

    def is_paused(self, queue: str) -> bool:
        collection = self.queues[queue].collection
        return queue in self.paused_queues or collection in self.paused_collections

    def pause(self, names: list[str], kind: str, *, paused: bool) -> None:
        """``kind`` is ``queues`` or ``collections``."""
        known: list[str] = getattr(self, f"paused_{kind}")
        kept = [name for name in known if name not in names]
        setattr(self, f"paused_{kind}", [*kept, *names] if paused else kept)

    def cancel(self, task_id: str) -> Fate:
        task = self.tasks.get(task_id)
        if task is None:
            return "unknown"
        task.cancelled = task.cancelled or task.state == "running"
        fates: dict[str, Fate] = {"running": "signalled", "settled": "settled"}
        return fates.get(task.state, "waiting")

    def is_last_chance(self, task: TaskState) -> bool:
        return 0 < task.crashes == self.queues[task.queue].max_crashes - 1

    def even_share(self, worker: Worker, ready: int) -> int:
        """What each worker for the same queues would hold if all were spread evenly."""
        mine = sorted(worker.queues)
        peers = {name for name, peer in self.workers.items() if peer.queues == mine}
        running = sum(task.worker in peers for task in self.tasks.values())
        return -(-(running + ready) // len(peers))

    def lease(self, worker: Worker, task_id: str) -> Claim:
        task = self.tasks[task_id]
        task.state, task.worker, task.claim = "running", worker.name, self.next_number()
        self.turns[task.queue], task.claimed_at = task.claim, time.time()
        return Claim(
            task_id,
            task.queue,
            data(task.payload),
            worker.name,
            task.claim,
            task.failures,
            task.crashes,
            task.submitted_at,
            task.cancelled,
        )

    def settle(self, settlement: Settlement, keep_until: float) -> bool:
        claim = settlement.claim
        task = self.tasks.get(claim.task_id)
        if task is None or (task.worker, task.claim) != (claim.worker, claim.number):
            return False
        task.worker = ""
        self.add_to_tally(settlement)
        if settlement.action in ("retry", "cooldown"):
            task.error = settlement.reason or task.error
        if settlement.action in ("release", "cooldown"):
            task.state = "waiting"
            if settlement.action == "cooldown":
                queue = self.queues[task.queue]
                queue.held_until = max(queue.held_until, time.time() + settlement.delay_s)
        elif settlement.action == "retry":
            task.failures += 1
            self.delay(task, 0 if task.cancelled else settlement.delay_s)
        else:
            self.queues[task.queue].run_s = time.time() - task.claimed_at
            if settlement.action == "bury":
                self.bury(settlement, task)
            self.answer(Answer(claim.task_id, settlement.result, settlement.outcome), keep_until)
        return True

    def bury(self, settlement: Settlement, task: TaskState) -> None:
        self.dead.pop(settlement.claim.task_id, None)
        self.dead[settlement.claim.task_id] = {
            "queue": task.queue,
            "collection": self.queues[task.queue].collection,
            "payload": task.payload,
            "result": _text(settlement.result),
            "outcome": settlement.outcome,
            "reason": settlement.reason,
            "died_at": time.time(),
        }

    def answer(self, answer: Answer, keep_until: float) -> None:
        """The end of a task; its id stays known until ``keep_until``."""
        task = self.tasks[answer.task_id]
        task.state, task.payload, task.changes_at = "settled", "", keep_until
        now, number = time.time(), self.next_number()
        task.settled_at = now
        self.outbox.append(ResultState(number, answer.task_id, _text(answer.result), now))
        self.ended = [*(at for at in self.ended if now - at < RECENT_S), now]
        self.outcomes[answer.outcome] = self.outcomes.get(answer.outcome, 0) + 1

    def seen_task(self, task_id: str) -> TaskSeen:
        task = self.tasks[task_id]
        return TaskSeen(task.number, task_id, task.queue, data(task.payload), task.submitted_at)

    def run(self, task_id: str) -> ClaimSeen:
        task = self.tasks[task_id]
        return ClaimSeen(task_id, task.queue, task.worker, task.claimed_at)

    def agent(self, name: str) -> AgentSeen:
        queue = self.queues[name]
        runs = [self.run(it) for it, task in self.tasks.items() if task.state == "running"]
        group = queue.concurrency_group
        mine = [run for run in runs if self.queues[run.queue].concurrency_group == group]
        workers = [self.seen(each) for each, it in self.workers.items() if it.lives]
        return AgentSeen(
            name,
            queue.collection,
            queue.concurrency,
            waiting=self.count("waiting")[name],
            paused=name in self.paused_queues,
            collection_paused=queue.collection in self.paused_collections,
            cooldown_s=queue.cooldown_s,
            runs=tuple(run for run in runs if run.queue == name),
            group_limit=queue.concurrency_group_limit if group else None,
            group_runs=tuple(mine) if group else (),
            servers=tuple(it for it in workers if name in self.workers[it.name].queues),
            run_s=queue.run_s,
        )

    def seen(self, name: str) -> WorkerSeen:
        worker = self.workers[name]
        running = sum(task.worker == name for task in self.tasks.values())
        told = (time.time() - worker.beat, worker.report.encode())
        return WorkerSeen(name, worker.host, worker.pid, worker.slots, running, *told)

    def locate(self, task_id: str) -> TaskLocation:
        ids = [result.task_id for result in self.outbox]
        found = TaskLocation(
            task_id,
            "unknown",
            outbox=len(ids),
            outbox_bytes=self.outbox_bytes(),
            outbox_before=ids.index(task_id) if task_id in ids else None,
            outbox_since=self.outbox[0].ended_at if ids else None,
            workers=tuple(self.seen(name) for name, it in self.workers.items() if it.lives),
        )
        if letter := self.dead.get(task_id):
            told = {"error": letter["reason"], "since": letter["died_at"]}
            agent = self.agent(letter["queue"])
            return replace(found, place="dead", agent=agent, outcome=letter["outcome"], **told)
        task = self.tasks.get(task_id)
        if task is None:
            return found
        found = replace(
            found,
            place=task.state,
            agent=self.agent(task.queue),
            submitted_at=task.submitted_at,
            failures=task.failures,
            crashes=task.crashes,
            cancelled=task.cancelled,
            error=task.error,
        )
        if task.state == "waiting":
            mine = [each for each in self.tasks.values() if each.state == "waiting"]
            before = [it for it in mine if it.queue == task.queue and it.place < task.place]
            return replace(found, position=len(before) + 1)
        if task.state == "delayed":
            return replace(found, due_at=task.changes_at)
        if task.state == "running":
            return replace(found, run=self.run(task_id))
        place: Place = "settled" if found.outbox_before is None else "outbox"
        return replace(found, place=place, since=task.settled_at)

    def letter(self, task_id: str) -> DeadLetter:
        fields = self.dead[task_id]
        kept = {name: data(fields[name]) for name in ("payload", "result")}
        return DeadLetter(task_id, **{**fields, **kept})


def data(text: str) -> bytes:
    """What was kept as a text."""
    return text.encode("latin-1")


def _text(payload: bytes) -> str:
    return payload.decode("latin-1")
