"""ToyStore: the core of a store in one JSON file, as an example of a custom store.

Each operation locks, reads, changes and replaces the file: atomic, short and slow.
"""

from __future__ import annotations

import fcntl
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.brokers.base import Store
from agentpipe.brokers.records import Admission, Claim, OutboxRecord, Queue, Worker
from agentpipe.brokers.statistics import QueueDepth, Stats, WorkerSeen
from agentpipe.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agentpipe.brokers.records import ClaimRequest, Offer, Settlement, Verdict
    from agentpipe.settings import Settings


@dataclass(slots=True)
class TaskState:
    queue: str
    payload: str  # JSON has no bytes: Latin-1, a character per byte.
    priority: int
    submitted_at: float
    state: str = "waiting"  # Or "delayed", "running", "settled".
    changes_at: float = 0.0  # When a delay ends, or a settled id is forgotten.
    worker: str = ""
    claim: int = 0
    failures: int = 0
    crashes: int = 0

    def put_back(self, delay_s: float = 0.0) -> None:
        self.worker, self.state = "", "delayed" if delay_s > 0 else "waiting"
        self.changes_at = time.time() + delay_s if delay_s > 0 else 0.0


@dataclass(slots=True)
class ResultState:
    number: int
    task_id: str
    payload: str
    taker: str = ""


@dataclass(slots=True)
class State:  # The file's content; tasks are in order of admission.
    queues: dict[str, Queue] = field(default_factory=dict)
    groups: dict[str, list[str]] = field(default_factory=dict)  # Round-robin, by collection.
    cursors: dict[str, int] = field(default_factory=dict)  # Each target's next queue.
    served: dict[str, int] = field(default_factory=dict)  # The number of each queue's last claim.
    cool_until: dict[str, float] = field(default_factory=dict)
    tasks: dict[str, TaskState] = field(default_factory=dict)
    outbox: list[ResultState] = field(default_factory=list)
    workers: dict[str, Worker] = field(default_factory=dict)
    beats: dict[str, float] = field(default_factory=dict)
    reports: dict[str, str] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    accepted: int = 0
    delivered: int = 0
    last_number: int = 0

    @classmethod
    def parse(cls, content: bytes) -> State:
        fields: dict[str, Any] = orjson.loads(content)
        for name, kind in (("queues", Queue), ("tasks", TaskState), ("workers", Worker)):
            fields[name] = {key: kind(**value) for key, value in fields.get(name, {}).items()}
        fields["outbox"] = [ResultState(**value) for value in fields.get("outbox", ())]
        return cls(**fields)

    def count(self, state: str) -> Counter[str]:
        return Counter(task.queue for task in self.tasks.values() if task.state == state)

    def cooldown_s(self, queue: str) -> float:
        return max(0.0, self.cool_until.get(queue, 0.0) - time.time())

    def pass_time(self) -> None:
        """Apply what is due: dead workers, ended delays, ids to forget."""
        for name, worker in list(self.workers.items()):
            if time.time() >= self.beats[name] + worker.lease_s:
                self.end_worker(name, crashes=1)
        for task_id, task in list(self.tasks.items()):
            if task.changes_at and time.time() >= task.changes_at:
                task.put_back() if task.state == "delayed" else self.tasks.pop(task_id)

    def end_worker(self, name: str, *, crashes: int) -> int:
        held = [task for task in self.tasks.values() if task.worker == name]
        for task in held:
            task.crashes += crashes
            task.put_back()
        for result in self.outbox:
            result.taker = "" if result.taker == name else result.taker
        self.workers.pop(name, None)
        return len(held)

    def admit(self, offer: Offer, target: str, queues: Sequence[Queue]) -> Verdict:
        if offer.task_id in self.tasks:
            return "duplicate"
        at, taken = self.cursors.get(target, 0), self.count("waiting") + self.count("delayed")
        for step in range(at, at + len(queues)):
            queue = queues[step % len(queues)]
            if taken[queue.name] < queue.max_waiting or not offer.bounded:
                self.cursors[target] = step % len(queues) + 1
                sent = (offer.payload.decode("latin-1"), offer.priority, time.time())
                self.tasks[offer.task_id] = TaskState(queue.name, *sent)
                self.tasks[offer.task_id].put_back(offer.delay_s)
                self.accepted += 1
                return "accepted"
        return "refused"

    def claimable(self, worker: Worker) -> list[str]:
        """Ids of the tasks that the worker can claim now, least recently served queue first."""
        running, served, found = self.count("running"), dict(self.served), list[str]()
        alone = any(self.is_last_chance(t) for t in self.tasks.values() if t.worker == worker.name)
        tasks = [it for it in self.tasks.items() if it[1].state == "waiting"]
        tasks = [it for it in tasks if it[1].queue in worker.queues]
        tasks.sort(key=lambda it: it[1].priority)
        while ready := [it for it in tasks if self.has_room(it[1].queue, running)]:
            task_id, task = min(ready, key=lambda it: served.get(it[1].queue, 0))
            tasks.remove((task_id, task))
            if alone and self.is_last_chance(task):
                continue
            alone = alone or self.is_last_chance(task)
            running[task.queue] += 1
            found.append(task_id)
            served[task.queue] = self.last_number + len(found)
        return found

    def is_last_chance(self, task: TaskState) -> bool:
        return 0 < task.crashes == self.queues[task.queue].max_crashes - 1

    def has_room(self, name: str, running: Counter[str]) -> bool:
        queue, group = self.queues[name], self.queues[name].concurrency_group
        peers = [it for it in self.queues.values() if it.concurrency_group == group]
        limit = peers[-1].concurrency_group_limit  # The last declared limit counts.
        open_group = group is None or sum(running[peer.name] for peer in peers) < limit
        return open_group and running[name] < queue.concurrency and not self.cooldown_s(name)

    def lease(self, worker: Worker, task_id: str) -> Claim:
        task = self.tasks[task_id]
        self.last_number += 1
        task.state, task.worker, task.claim = "running", worker.name, self.last_number
        self.served[task.queue] = task.claim
        held = (worker.name, task.claim, task.failures, task.crashes, task.submitted_at)
        return Claim(task_id, task.queue, task.payload.encode("latin-1"), *held)

    def settle(self, settlement: Settlement, retention_s: float) -> bool:
        claim, until = settlement.claim, time.time() + settlement.delay_s
        task = self.tasks.get(claim.task_id)
        if task is None or (task.worker, task.claim) != (claim.worker, claim.number):
            return False
        task.payload = settlement.payload.decode("latin-1") or task.payload
        later = settlement.action in ("retry", "release")
        task.put_back(settlement.delay_s if later else 0.0)
        if settlement.action == "retry":
            task.failures += 1
        elif settlement.action == "crash":
            task.crashes += 1
        elif settlement.action == "cooldown":
            self.cool_until[task.queue] = max(until, self.cool_until.get(task.queue, 0.0))
        elif settlement.action in ("complete", "bury"):  # ToyStore keeps no dead letters.
            task.state, task.payload, task.changes_at = "settled", "", time.time() + retention_s
            self.last_number += 1
            result = (claim.task_id, settlement.result.decode("latin-1"))
            self.outbox.append(ResultState(self.last_number, *result))
            self.outcomes[settlement.outcome] = self.outcomes.get(settlement.outcome, 0) + 1
        return True


class ToyStore(Store):
    """``toy:///file.json``, or ``toy:////folder/file.json``."""

    def __init__(self, url: str, settings: Settings) -> None:
        self._path = Path(url.removeprefix("toy:///")).absolute()
        self._retention_s = settings.retention_s
        self._closed = False

    @contextmanager
    def _step(self) -> Iterator[State]:
        """Apply the block's changes to the state atomically."""
        if self._closed:
            raise Unreachable(f"{self._path} has been closed")
        try:
            with self._path.with_suffix(".lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                state = State.parse(self._path.read_bytes() if self._path.exists() else b"{}")
                state.pass_time()
                yield state
                self._path.with_suffix(".new").write_bytes(orjson.dumps(state, default=sorted))
                self._path.with_suffix(".new").replace(self._path)
        except OSError as error:
            raise Unreachable(f"{self._path}: {error}") from error

    def declare(self, queues: Sequence[Queue]) -> None:
        with self._step() as state:
            for queue in queues:
                peers = [it.name for it in queues if it.collection == queue.collection]
                state.groups[queue.collection or ""] = peers
                state.queues.pop(queue.name, None)  # Keeps the order of declaration.
                state.queues[queue.name] = queue

    def offer(self, target: str, offers: Sequence[Offer], *, round_robin: bool) -> Admission:
        with self._step() as state:
            names = state.groups.get(target, []) if round_robin else [target]
            queues = [state.queues[name] for name in names if name in state.queues]
            verdicts = tuple(state.admit(offer, target, queues) for offer in offers)
            taken = state.count("waiting") + state.count("delayed")
        depth = sum(taken[queue.name] for queue in queues)
        return Admission(verdicts, depth, sum(queue.max_waiting for queue in queues))

    def join(self, worker: Worker) -> None:
        with self._step() as state:
            state.workers[worker.name] = worker
            state.beats[worker.name] = time.time()

    def heartbeat(self, worker: Worker, report: bytes | None = None) -> bool:
        with self._step() as state:
            state.beats[worker.name] = time.time()
            if report is not None:
                state.reports[worker.name] = report.decode("latin-1")
            return worker.name in state.workers

    def leave(self, worker: Worker) -> int:
        with self._step() as state:
            return state.end_worker(worker.name, crashes=0)

    def claim(self, request: ClaimRequest) -> list[Claim]:
        with self._step() as state:
            worker, limit = request.worker, request.limit
            size = sum(len(result.payload) for result in state.outbox)
            full = request.outbox.reached_by(len(state.outbox), size)
            if full or worker.name not in state.workers:
                return []
            ready = state.claimable(worker)
            if request.held is not None:  # At most an even share of running and claimable tasks.
                peers = [
                    it.name for it in state.workers.values() if set(it.queues) == worker.queues
                ]
                total = len(ready) + sum(task.worker in peers for task in state.tasks.values())
                limit = min(limit, -(-total // len(peers)) - request.held)
            return [state.lease(worker, task_id) for task_id in ready[: max(0, limit)]]

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        with self._step() as state:
            return [state.settle(each, self._retention_s) for each in settlements]

    def take_outbox(self, worker: Worker, limit: int, max_bytes: int) -> list[OutboxRecord]:
        taken: list[OutboxRecord] = []
        with self._step() as state:
            free = [it for it in state.outbox if not it.taker and worker.name in state.workers]
            for it in free[:limit]:
                max_bytes -= len(it.payload)
                if taken and max_bytes < 0:
                    break
                it.taker = worker.name
                taken.append(OutboxRecord(it.number, it.task_id, it.payload.encode("latin-1")))
        return taken

    def drop_outbox(self, worker: Worker, numbers: Sequence[int]) -> None:
        with self._step() as state:
            kept = [r for r in state.outbox if r.taker != worker.name or r.number not in numbers]
            state.delivered += len(state.outbox) - len(kept)
            state.outbox = kept

    def stats(self) -> Stats:
        with self._step() as state:
            waiting, delayed, running = map(state.count, ("waiting", "delayed", "running"))
            held = Counter(task.worker for task in state.tasks.values())
            size = sum(len(result.payload) for result in state.outbox)
        depths = [
            QueueDepth(
                *(name, queue.collection, waiting[name], delayed[name], running[name]),
                *(queue.max_waiting, queue.concurrency, state.cooldown_s(name)),
                group=queue.group,
            )
            for name, queue in state.queues.items()
        ]
        workers = [
            WorkerSeen(
                *(name, it.host, it.pid, it.slots, held[name], time.time() - state.beats[name]),
                state.reports.get(name, "").encode("latin-1"),
            )
            for name, it in state.workers.items()
        ]
        return Stats(
            *(state.accepted, waiting.total(), delayed.total(), running.total()),
            *(len(state.outbox), size, state.delivered, 0),
            outcomes=state.outcomes,
            queues=tuple(depths),
            workers=tuple(workers),
        )

    def close(self) -> None:
        self._closed = True
