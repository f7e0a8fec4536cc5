"""RedisOperations: the store's operations for operators and senders, beyond the core."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.brokers.capabilities import DRAIN_NOTED_S, Answer, Fate, TaskQuery, TaskSeen
from agentpipe.brokers.measures import increments_of_answer
from agentpipe.brokers.redis.declaring import caps, listed
from agentpipe.brokers.redis.decoding import (
    as_location,
    as_loops,
    as_policies,
    as_runs,
    as_runs_beside,
    as_spendings,
    as_tasks,
)
from agentpipe.brokers.redis.health import examine
from agentpipe.brokers.redis.letters import PAGE_BYTES, READ_AT_ONCE
from agentpipe.brokers.redis.scripts import PORTION
from agentpipe.brokers.redis.settlement_args import flat_increments
from agentpipe.brokers.with_dead_letters import WithDeadLetters
from agentpipe.core.loop_holds import LoopHold, LoopState, taken_text
from agentpipe.core.portions import portions_of
from agentpipe.errors import LoopTaken

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from agentpipe.brokers.location import ClaimSeen, TaskLocation
    from agentpipe.brokers.records import Refusal, Worker
    from agentpipe.brokers.redis.asking import Asking
    from agentpipe.brokers.redis.letters import RedisLetters
    from agentpipe.brokers.redis.packing import Argument
    from agentpipe.brokers.redis.script_runner import ScriptRunner
    from agentpipe.brokers.runs import KeptRun
    from agentpipe.connections.health import Finding
    from agentpipe.core.budgets import Budget, Holder, Spending
    from agentpipe.core.policy import PolicyChange, PolicyState

_FATES: dict[int, Fate] = {
    ord("t"): "signalled",
    ord("w"): "waiting",
    ord("s"): "settled",
    ord("u"): "unknown",
}


class RedisOperations(WithDeadLetters):
    """The store's capabilities that workers do not need to run tasks; see ``capabilities``."""

    _scripts: ScriptRunner
    _asking: Asking
    _dead: RedisLetters

    def tasks(self, query: TaskQuery) -> list[TaskSeen]:
        if query.state == "running":
            found = self._running()
        elif query.task_ids is not None:
            found = self._unclaimed_by_id(query.task_ids)
        else:
            found = self._unclaimed(query)
        return sorted(_selected(found, query), key=lambda task: task.number)[: query.limit]

    def _running(self) -> list[TaskSeen]:
        """Read the running tasks; one that changes its worker meanwhile can be missed."""
        pages = self._claims_read("find", "claimed", PAGE_BYTES)
        return list({task.task_id: task for page in pages for task in as_tasks(page)}.values())

    def _claims_read(self, script: str, *args: Argument) -> Iterator[Sequence[bytes]]:
        """Yield what a script tells of the claims of all workers, part by part."""
        left: list[bytes] = self._scripts.call("ZRANGE", f"{self._scripts.base}:workers", 0, -1)
        cursor = b"0"
        while left:
            done, cursor, *values = self._scripts.run(script, *args, cursor, *left)
            del left[:done]
            yield values

    def _unclaimed_by_id(self, task_ids: Sequence[str]) -> list[TaskSeen]:
        found: list[TaskSeen] = []
        for part in portions_of(task_ids, PORTION):
            found += as_tasks(self._scripts.run("find", "unclaimed", *part))
        return found

    def _unclaimed(self, query: TaskQuery) -> list[TaskSeen]:
        """Page through all tasks; a page can contain no task of the wanted queues."""
        found, after = list[TaskSeen](), query.after
        limit = READ_AT_ONCE if query.limit is None else query.limit
        while query.limit is None or not found:
            args = (after, limit, PAGE_BYTES, *_wanted(query.queues))
            seen, *values = self._scripts.run("peek", *args)
            if not seen:
                break
            found += _selected(as_tasks(values), query)
            after = int(seen)
        return found

    def answer(self, answers: Sequence[Answer]) -> list[bool]:
        args: list[Argument] = []
        for each in answers:
            measured = orjson.dumps(flat_increments(increments_of_answer(each.outcome)))
            args += (each.task_id, each.result, each.outcome, measured)
        what = tuple(each.task_id for each in answers)
        return [letter == ord("d") for letter in self._asking.ask("answer", what, *args)]

    def move(self, collection: str, agents: Sequence[str], limit: int) -> int:
        moved = (self._move(collection, part, limit) for part in portions_of(agents, PORTION))
        return next(filter(None, moved), 0)

    def _move(self, collection: str, agents: Sequence[str], limit: int) -> int:
        moved, cursor = self._scripts.run("move", collection, limit, 0, *agents)
        while cursor != b"0" and not moved:
            moved, cursor = self._scripts.run("move", collection, limit, cursor, *agents)
        return int(moved)

    def pause(
        self,
        *,
        queues: Sequence[str] = (),
        collections: Sequence[str] = (),
        paused: bool,
        reason: str = "",
    ) -> None:
        names = [*(f"queue {name}" for name in queues), *(f"collection {it}" for it in collections)]
        for part in portions_of(names, PORTION) or [names]:
            more = self._scripts.run("pause", int(paused), reason, *part)
        self._apply_changes(more)

    def _apply_changes(self, more: int) -> None:
        """Apply the rest of what pauses and budgets have changed; workers go on if it is killed."""
        while more:
            more = self._scripts.run("apply_changes")

    def drain(self, workers: Collection[str]) -> None:
        self._scripts.run("drain", *workers)

    def is_draining(self, worker: Worker) -> bool:
        return bool(self._scripts.run("is_draining", worker.name))

    def note_drain(self, host: str | None) -> None:
        self._scripts.run("note_drain", host or "", DRAIN_NOTED_S)

    def last_drain(self, host: str) -> int:
        return int(self._scripts.run("last_drain", host, DRAIN_NOTED_S))

    def set_budget(self, kind: Holder, name: str, budget: Budget) -> None:
        self._apply_changes(self._scripts.run("set_budget", f"{kind} {name}", *caps(budget)))

    def spendings(self) -> tuple[Spending, ...]:
        return as_spendings(self._scripts.run("spendings"))

    def policies(self) -> tuple[PolicyState, ...]:
        return as_policies(self._scripts.run("list_policies"))

    def change_policy(self, name: str, change: PolicyChange) -> PolicyState | None:
        version = "" if change.version is None else change.version
        endpoints = "" if change.endpoints is None else listed(change.endpoints)
        paused = "" if change.paused is None else int(change.paused)
        accepted = "" if change.accepted is None else change.accepted
        back, returned = int(change.back), (change.returned, change.unused)
        given = (version, back, endpoints, paused, accepted, *returned, *hold_args(change.hold))
        with self._asking.asked("change_policy", (name, change), name, *given) as answer:
            self._refuse_others(change.hold, answer)
            if answer == b"0":
                return None
            return next((it for it in self.policies() if it.name == name), None)

    def hold_loop(
        self, hold: LoopHold, report: bytes, *, lease_s: float, instead_of: str = ""
    ) -> LoopState:
        what = (hold.name, hold.token, lease_s, report, instead_of)
        (found,) = as_loops([self._scripts.run("hold_loop", *what)])
        return found

    def keep_loop(self, hold: LoopHold, report: bytes, *, lease_s: float) -> LoopState | None:
        found = self._scripts.run("keep_loop", hold.name, hold.token, lease_s, report)
        return next(iter(as_loops([found] if found else [])), None)

    def drop_loop(self, hold: LoopHold) -> None:
        self._scripts.run("drop_loop", hold.name, hold.token)

    def loops(self) -> tuple[LoopState, ...]:
        return as_loops(self._scripts.run("list_loops"))

    def cancel(self, task_ids: Sequence[str]) -> list[Fate]:
        fates: list[Fate] = []
        for part in portions_of(task_ids, PORTION):
            letters = self._scripts.run("cancel", *part)
            fates += [_FATES[letter] for letter in letters]
        return fates

    def locate(self, task_id: str) -> TaskLocation:
        values = orjson.loads(self._scripts.run("locate", task_id))
        agent = values.get("agent")
        return as_location(task_id, values, self._runs_beside(agent) if agent else [])

    def _runs_beside(self, agent: Mapping[str, Any]) -> list[ClaimSeen]:
        """Read the running tasks of the agent and of its concurrency group, oldest first."""
        found: dict[str, ClaimSeen] = {}  # A page can have claims of the one before again.
        expected = agent["group_running"] if agent["gate"] else agent["running"]
        for page in self._claims_read("runs_beside", agent["queue"], agent["gate"]):
            if len(found) >= expected:
                break
            found |= {run.task_id: run for run in as_runs_beside(page)}
        return sorted(found.values(), key=lambda run: run.since or 0.0)

    def _drop_letters(self, kind: str, task_ids: Sequence[str]) -> int:
        return int(self._asking.ask("drop_dead", (kind, *task_ids), kind, *task_ids))

    def set_aside(self, worker: Worker, refusals: Sequence[Refusal]) -> None:
        args: list[Argument] = []
        for each in refusals:
            args += (each.record.number, each.queue, each.collection or "", each.outcome)
            args.append(each.reason)
        self._scripts.run("set_aside", worker.name, *args)

    def deliver_again(self, task_ids: Sequence[str]) -> int:
        return int(self._asking.ask("deliver_again", tuple(task_ids), *task_ids))

    def begin_run(self, name: str, record: bytes) -> bytes:
        kept: bytes = self._scripts.run("begin_run", name, record)
        return kept

    def runs(self) -> list[KeptRun]:
        return as_runs(self._scripts.run("runs"))

    def drop_run(self, name: str) -> bool:
        return bool(self._scripts.run("drop_run", name))

    def examine(self) -> list[Finding]:
        """Return findings about the server's health."""
        return examine(self._scripts)

    def progress(self, name: str, mark: int) -> int | None:
        return int(self._scripts.run("progress", name, mark))

    def _refuse_others(self, hold: LoopHold | None, answer: object) -> None:
        if hold is not None and answer == b"taken":
            state = next((it for it in self.loops() if it.name == hold.name), None)
            raise LoopTaken(taken_text(hold.name, state))


def hold_args(hold: LoopHold | None) -> tuple[str, str]:
    """Return the arguments by which scripts check that the trainer still holds its loop."""
    return ("", "") if hold is None else (hold.name, hold.token)


def _wanted(queues: Sequence[str] | None) -> tuple[int | str, ...]:
    """Return the filter of a page, which each page repeats: only one of few queues."""
    return (0,) if queues is None or len(queues) > PORTION else (1, *queues)


def _selected(tasks: Sequence[TaskSeen], query: TaskQuery) -> list[TaskSeen]:
    rest, queues = replace(query, queues=None), frozenset(query.queues or ())
    fitting = tasks if query.queues is None else [it for it in tasks if it.queue in queues]
    return list(filter(rest.selects, fitting))
