"""ToyStore: a whole store in one JSON file, to show what a store of your own must do.

Each operation locks the file, reads all of it, takes its step, and puts a new file in its
place. That is slow with many tasks, but short, and atomic over all threads and processes.
"""

from __future__ import annotations

import fcntl
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import orjson

from agentpipe.brokers.base import Store
from agentpipe.brokers.dead_letter import DeadPage, DeadSummary
from agentpipe.brokers.records import Admission, OutboxRecord
from agentpipe.brokers.statistics import QueueDepth, Stats, Tally, WorkerSeen
from agentpipe.errors import ConfigError, Unreachable

from .state import State, data

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agentpipe.brokers.capabilities import Answer, Fate, TaskQuery, TaskSeen
    from agentpipe.brokers.dead_letter import DeadFilter, DeadLetter
    from agentpipe.brokers.location import TaskLocation
    from agentpipe.brokers.records import (
        Claim,
        ClaimRequest,
        Offer,
        Queue,
        Settlement,
        Verdict,
        Worker,
    )
    from agentpipe.settings import Settings

LOOK_EVERY_S = 0.002


class ToyStore(Store):
    """The ``Store`` over ``toy:///file.json``. Safe from the death of any process."""

    def __init__(self, url: str, settings: Settings) -> None:
        self._path = Path(unquote(urlsplit(url).path.removeprefix("/"))).absolute()
        if not self._path.suffix:
            raise ConfigError(f"{url}: write toy:///file.json, or toy:////folder/file.json")
        self._retention_s = settings.retention_s
        self._seen: tuple[int, ...] = ()
        self._closed = False

    @contextmanager
    def _step(self) -> Iterator[State]:
        """What the block does to the state happens at once, or not at all."""
        if self._closed:
            raise Unreachable(f"{self._path} has been closed")
        try:
            with self._path.with_suffix(".lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                state = State.parse(self._path.read_bytes() if self._path.exists() else b"")
                before = orjson.dumps(state)
                yield state
                if (after := orjson.dumps(state)) != before:
                    self._path.with_suffix(".new").write_bytes(after)
                    self._path.with_suffix(".new").replace(self._path)
        except OSError as error:
            raise Unreachable(f"{self._path}: {error}") from error

    def declare(self, queues: Sequence[Queue]) -> None:
        with self._step() as state:
            state.declare(queues)

    def offer(self, target: str, offers: Sequence[Offer], *, round_robin: bool) -> Admission:
        with self._step() as state:
            waiting, queues = state.count("waiting"), state.targets(target, round_robin=round_robin)
            verdicts: list[Verdict] = []
            at = state.cursors.get(target, 0)
            for offer in offers:
                turn = (queues[(at + step) % len(queues)] for step in range(len(queues)))
                free = (name for name in turn if waiting[name] < state.queues[name].max_waiting)
                if offer.task_id in state.tasks:
                    verdicts.append("duplicate")
                elif queue := next(free, None):
                    state.admit(offer, queue)
                    waiting[queue] += offer.delay_s <= 0
                    at = queues.index(queue) + 1
                    verdicts.append("accepted")
                else:
                    verdicts.append("refused")
            state.cursors[target] = at
            depth = sum(waiting[name] for name in queues)
            bound = sum(state.queues[name].max_waiting for name in queues)
        return Admission(tuple(verdicts), depth, bound)

    def join(self, worker: Worker) -> None:
        with self._step() as state:
            state.join(worker)

    def heartbeat(self, worker: Worker, report: bytes | None = None) -> bool:
        with self._step() as state:
            if worker.name in state.workers:
                state.workers[worker.name].beat = time.time()
                if report is not None:
                    state.workers[worker.name].report = report.decode()
            return worker.name in state.workers

    def leave(self, worker: Worker) -> int:
        with self._step() as state:
            return state.end_worker(worker.name, crashes=0)

    def claim(self, request: ClaimRequest) -> list[Claim]:
        worker, limit, held = request.worker, request.limit, request.held
        claims: list[Claim] = []
        with self._step() as state:
            state.pass_time()
            full = request.outbox.reached_by(len(state.outbox), state.outbox_bytes())
            if full or worker.name not in state.workers:
                return []
            ready = state.ready(worker)
            if held is not None:
                share = state.even_share(worker, sum(map(len, ready.values())))
                limit = min(limit, share - held)
            room = state.gate_room()
            while ready and len(claims) < limit:
                queue = min(ready, key=lambda name: state.turns.get(name, 0))
                gate = state.queues[queue].concurrency_group
                if gate is not None:
                    room[gate] -= 1
                if gate is None or room[gate] >= 0:
                    claims.append(state.lease(worker, ready[queue].popleft()))
                if not ready[queue] or (gate is not None and room[gate] <= 0):
                    del ready[queue]
        return claims

    def wait(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while (seen := self._look()) == self._seen and time.monotonic() < deadline:
            time.sleep(LOOK_EVERY_S)
        self._seen = seen

    def take_cancelled(self) -> list[str]:
        with self._step() as state:
            tasks = state.tasks.items()
            return [it for it, task in tasks if task.cancelled and task.state == "running"]

    def _look(self) -> tuple[int, ...]:
        """Differs after each step."""
        try:
            stat = self._path.stat()
        except OSError:
            return ()
        return stat.st_ino, stat.st_size, stat.st_mtime_ns

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        with self._step() as state:
            keep_until = time.time() + self._retention_s
            return [state.settle(each, keep_until) for each in settlements]

    def take_outbox(self, worker: Worker, limit: int, max_bytes: int) -> list[OutboxRecord]:
        taken: list[OutboxRecord] = []
        with self._step() as state:
            state.pass_time()
            free = [result for result in state.outbox if not result.taker]
            for result in free[:limit] if worker.name in state.workers else ():
                max_bytes -= len(result.payload)
                if taken and max_bytes < 0:
                    break
                result.taker = worker.name
                taken.append(OutboxRecord(result.number, result.task_id, data(result.payload)))
        return taken

    def drop_outbox(self, worker: Worker, numbers: Sequence[int]) -> None:
        with self._step() as state:
            known = len(state.outbox)
            mine = {result.number for result in state.outbox if result.taker == worker.name}
            drop = mine.intersection(numbers)
            state.outbox = [result for result in state.outbox if result.number not in drop]
            state.delivered += known - len(state.outbox)

    def tasks(self, query: TaskQuery) -> list[TaskSeen]:
        states = ("running",) if query.state == "running" else ("waiting", "delayed")
        with self._step() as state:
            found = [
                state.seen_task(it) for it, task in state.tasks.items() if task.state in states
            ]
        found = sorted(filter(query.selects, found), key=lambda task: task.number)
        return found[: query.limit]

    def answer(self, answers: Sequence[Answer]) -> list[bool]:
        done: list[bool] = []
        with self._step() as state:
            for answer in answers:
                task = state.tasks.get(answer.task_id)
                done.append(task is not None and task.state in ("waiting", "delayed"))
                if done[-1]:
                    state.answer(answer, time.time() + self._retention_s)
        return done

    def pause(
        self, *, queues: Sequence[str] = (), collections: Sequence[str] = (), paused: bool
    ) -> None:
        with self._step() as state:
            state.pause(list(queues), "queues", paused=paused)
            state.pause(list(collections), "collections", paused=paused)

    def cancel(self, task_ids: Sequence[str]) -> list[Fate]:
        with self._step() as state:
            state.pass_time()
            return [state.cancel(task_id) for task_id in task_ids]

    def locate(self, task_id: str) -> TaskLocation:
        with self._step() as state:
            return state.locate(task_id)

    def dead_letters(self, wanted: DeadFilter, after: str, limit: int) -> DeadPage:
        if after and not after[:1].isdecimal():
            raise ConfigError(f"{after!r} is not where a list of this store's dead letters ended")
        found = [letter for letter in self._dead() if wanted.fits(letter)]
        rest = [letter for letter in found if _place(letter) > after]
        page = tuple(letter.summary for letter in rest[:limit])
        return DeadPage(page, _place(page[-1]) if len(rest) > limit else None)

    def count_dead(self, wanted: DeadFilter) -> int:
        return sum(wanted.fits(letter) for letter in self._dead())

    def read_dead(self, task_ids: Sequence[str]) -> list[DeadLetter]:
        return [letter for letter in self._dead() if letter.task_id in task_ids]

    def _dead(self) -> list[DeadLetter]:
        with self._step() as state:
            return sorted((state.letter(task_id) for task_id in state.dead), key=_place)

    def drop_dead(self, task_ids: Sequence[str]) -> int:
        with self._step() as state:
            return sum(state.dead.pop(task_id, None) is not None for task_id in task_ids)

    def stats(self) -> Stats:
        with self._step() as state:
            waiting, delayed, running = map(state.count, ("waiting", "delayed", "running"))
            held = Counter(task.worker for task in state.tasks.values())
            total = sum((state.tally(name) for name in state.queues), Tally())
        ring_order = sorted(
            state.queues.items(),
            key=lambda item: (item[1].collection or "", item[1].position or 0, item[0]),
        )
        return Stats(
            accepted=state.accepted,
            waiting=waiting.total(),
            delayed=delayed.total(),
            running=running.total(),
            outbox=len(state.outbox),
            outbox_bytes=state.outbox_bytes(),
            delivered=state.delivered,
            dead=len(state.dead),
            outcomes=state.outcomes,
            queues=tuple(
                QueueDepth(
                    name,
                    queue.collection,
                    waiting[name],
                    delayed[name],
                    running[name],
                    queue.max_waiting,
                    queue.concurrency,
                    queue.cooldown_s,
                    state.is_paused(name),
                    state.tally(name),
                )
                for name, queue in ring_order
            ),
            workers=tuple(
                WorkerSeen(
                    name,
                    w.host,
                    w.pid,
                    w.slots,
                    held[name],
                    time.time() - w.beat,
                    w.report.encode(),
                )
                for name, w in state.workers.items()
                if w.lives
            ),
            tally=replace(total, error="", error_s=None),
            recent=state.recent(),
            undelivered_s=state.undelivered_s(),
        )

    def close(self) -> None:
        self._closed = True


def _place(letter: DeadSummary) -> str:
    """Where it stands among the dead letters; such texts sort."""
    return f"{letter.died_at:020.6f} {letter.task_id}"
