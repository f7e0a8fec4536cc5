"""Decoding: turns script replies into the records of the ``Store`` interface."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from agentpipe.brokers.capabilities import TaskSeen
from agentpipe.brokers.dead_letter import DeadLetter, DeadPage, DeadSummary
from agentpipe.brokers.location import AgentSeen, ClaimSeen, GroupSeen, TaskLocation
from agentpipe.brokers.measures import Measures, unpack
from agentpipe.brokers.readable_rows import readable, text_in
from agentpipe.brokers.records import Claim, OutboxRecord, Source
from agentpipe.brokers.redis.queue_rows import depths, tallies_of
from agentpipe.brokers.runs import KeptRun
from agentpipe.brokers.statistics import (
    Declared,
    GroupCounts,
    Stats,
    Tally,
    WorkerSeen,
    with_spent,
)
from agentpipe.core.budgets import Budget, Spending
from agentpipe.core.loop_holds import LoopState
from agentpipe.core.policy import PolicySpec, PolicyState
from agentpipe.core.usage import MAX_NUMBER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Number = TypeVar("Number", int, float)

# Running tasks beside a task that its location names.
MAX_RUNS = 20

log = logging.getLogger(__name__)


def _rows(values: Sequence[Any], width: int) -> Iterator[tuple[Any, ...]]:
    """Split flat values into rows of ``width``."""
    return zip(*[iter(values)] * width, strict=True)


def as_claims(answer: Sequence[bytes], worker: str) -> list[Claim]:
    """Decode the reply of ``claim``; skip ids without a task, which other programs can queue."""
    if not answer:
        return []
    number, *values = answer
    claims = (_claim(row, worker, int(number)) for row in _rows(values, 2))
    return [claim for claim in claims if claim is not None]


def _claim(row: Sequence[bytes], worker: str, number: int) -> Claim | None:
    described, payload = row
    id_bytes, cancelled, cooled_s, rest = described.split(b" ", 3)
    task_id, record = rest[: int(id_bytes)], rest[int(id_bytes) :]
    if not record:
        return None
    _, _, failures, crashes, _, submitted_at, queue = record.decode().split(" ", 6)
    return Claim(
        task_id.decode(),
        queue,
        payload,
        worker,
        number,
        int(failures),
        int(crashes),
        float(submitted_at),
        cancelled != b"0",
        float(cooled_s),
    )


def as_outbox(entries: Sequence[bytes], payloads: Sequence[bytes | None]) -> list[OutboxRecord]:
    """Decode the reply of ``take_outbox``, with the results of its entries.

    A result is None if the worker's lease has lapsed since, and another one has delivered it.
    """
    split = (entry.split(b" ", 2) for entry in entries)
    return [
        OutboxRecord(int(number), task_id.decode(), payload)
        for (number, _, task_id), payload in zip(split, payloads, strict=True)
        if payload is not None
    ]


def as_tasks(values: Sequence[bytes]) -> list[TaskSeen]:
    """Decode the reply of ``find``, or that of ``peek`` without its first value."""
    return list(readable("tasks", _rows(values, 5), _task_seen))


def _task_seen(row: Sequence[bytes]) -> TaskSeen:
    number, task_id, queue, payload, submitted_at = row
    return TaskSeen(int(number), task_id.decode(), queue.decode(), payload, float(submitted_at))


def as_dead_page(after: bytes, values: Sequence[bytes]) -> DeadPage:
    """Decode the reply of ``dead_letters``."""
    letters = readable("dead letters", _rows(values, 6), _dead_summary)
    return DeadPage(tuple(letters), after.decode() or None)


def _dead_summary(row: Sequence[bytes]) -> DeadSummary:
    return DeadSummary(*_summary(row))


def as_dead_letters(values: Sequence[bytes]) -> list[DeadLetter]:
    """Decode the reply of ``read_dead`` without its first value."""
    return list(readable("dead letters", _rows(values, 8), _dead_letter))


def _dead_letter(values: Sequence[bytes]) -> DeadLetter:
    *row, payload, result = values
    return DeadLetter(*_summary(row), payload, result)


def _summary(row: Sequence[bytes]) -> tuple[str, str, str | None, str, str, float]:
    task_id, queue, collection, outcome, reason, died_us = (value.decode() for value in row)
    return task_id, queue, collection or None, outcome, reason, int(died_us) / 1e6


def as_runs_beside(values: Sequence[bytes]) -> list[ClaimSeen]:
    """Decode the reply of ``runs_beside`` without its first two values."""
    return [
        ClaimSeen(task_id.decode(), queue.decode(), worker.decode(), float(since))
        for task_id, queue, worker, since in _rows(values, 4)
    ]


def as_location(task_id: str, values: dict[str, Any], runs: Sequence[ClaimSeen]) -> TaskLocation:
    """Decode the object that ``locate`` returns; ``runs`` are those beside the task, sorted."""
    workers = [(_worker_seen(each), each["serves"]) for each in values.pop("workers") or ()]
    agent, run = values.pop("agent", None), values.pop("run", None)
    for name in ("submitted_at", "due_at", "since", "outbox_since"):
        values[name] = float(values[name]) if values.get(name) else None
    servers = tuple(worker for worker, serves in workers if serves)
    spending, policy = values.pop("spending", None), values.pop("policy", None)
    group = values.pop("group", None)
    return TaskLocation(
        task_id,
        group=group and _group_seen(*group),
        policy=policy and _policy([each.encode() for each in policy]),
        spending=spending and _spending(spending),
        agent=agent and _agent_seen(agent, servers, runs),
        run=run and _run(run),
        workers=tuple(worker for worker, _ in workers),
        **values,
    )


def _group_seen(group_id: str, need: int, repairs: int, good: int, *rest: Any) -> GroupSeen:
    size, places = rest
    return GroupSeen.of((group_id, need, repairs, good), size, dict(places or ()))


def _worker_seen(values: dict[str, Any]) -> WorkerSeen:
    fields = {name: value for name, value in values.items() if name != "serves"}
    return WorkerSeen(**fields | {"report": values["report"].encode()})


def _agent_seen(
    values: dict[str, Any], servers: tuple[WorkerSeen, ...], runs: Sequence[ClaimSeen]
) -> AgentSeen:
    values["collection"] = values["collection"] or None
    gate, spending = values.pop("gate"), values.pop("spending", None)
    for name in ("running", "group_running"):
        del values[name]
    mine = [run for run in runs if run.queue == values["queue"]]
    return AgentSeen(
        **values,
        servers=servers,
        runs=tuple(mine[:MAX_RUNS]),
        group_runs=tuple(runs[:MAX_RUNS]) if gate else (),
        spending=spending and _spending(spending),
    )


def _run(values: dict[str, Any]) -> ClaimSeen:
    return ClaimSeen(**values | {"since": float(values["since"])})


def as_stats(pages: Sequence[tuple[bytes, bytes]], rest: Sequence[Any]) -> Stats:
    """Decode the replies of ``stats``: queues and tallies of each part, and the other values."""
    counters = dict(readable("counters", _rows(rest[0], 2), _counter))
    declared = readable("declarations", _rows(rest[6], 2), _declared)
    measures = readable("measures", sorted(_rows(rest[8], 2)), _measures)
    tallies, spendings = tallies_of(page for _, page in pages), as_spendings(rest[7])
    return Stats.counted(
        counters,
        with_spent(depths((page for page, _ in pages), tallies), spendings),
        outbox=rest[1],
        groups=GroupCounts.of(counters.get("groups", 0), counters, rest[9]),
        dead=rest[2],
        workers=tuple(sorted(_workers(rest[3]), key=lambda worker: worker.name)),
        tally=replace(sum(tallies.values(), Tally()), error="", error_s=None),
        recent=rest[4],
        undelivered_s=float(rest[5]),
        declared=tuple(sorted(declared, key=lambda it: (it.collection, it.by))),
        spendings=spendings,
        measures=dict(measures),
        policies=as_policies(rest[10]),
        loops=as_loops(rest[11]),
    )


def _counter(row: Sequence[bytes]) -> tuple[str, int]:
    name, value = row
    return name.decode(), int(value)


def _measures(row: Sequence[bytes]) -> tuple[str, Measures]:
    collection, numbers = row
    return collection.decode(), Measures.of(unpack(numbers))


def as_loops(rows: Sequence[Sequence[bytes]]) -> tuple[LoopState, ...]:
    """Decode rows of loops, sorted by name."""
    return tuple(sorted(readable("loops", rows, _loop), key=lambda it: it.name))


def _loop(row: Sequence[bytes]) -> LoopState:
    name, token, silent_s, report = row
    return LoopState(name.decode(), token.decode(), float(silent_s), report)


def as_policies(values: Sequence[bytes]) -> tuple[PolicyState, ...]:
    """Decode rows of policies, sorted by name."""
    found = readable("policies", _rows(values, 9), _policy)
    return tuple(sorted(found, key=lambda it: it.name))


def _policy(values: Sequence[bytes]) -> PolicyState:
    _, spec, endpoints, version, paused, *counts = values
    declared = PolicySpec.decode(spec)
    now = replace(declared, endpoints=tuple(map(text_in, orjson.loads(endpoints))))
    return PolicyState(now, int(version), paused == b"1", *map(int, counts))


def as_spendings(values: Sequence[bytes]) -> tuple[Spending, ...]:
    """Decode the reply of ``spendings``."""
    found = readable("budgets", _rows(values, 6), _budget)
    return tuple(sorted(found, key=lambda it: (it.kind, it.name)))


def _budget(values: Sequence[bytes]) -> Spending:
    return _spending([value.decode() for value in values])


def _spending(values: Sequence[Any]) -> Spending:
    kind, name, cap_usd, cap_tokens, usd, tokens = values
    cap = Budget(_cap(float(cap_usd)), _cap(int(float(cap_tokens))))
    return Spending(kind, name, cap, float(usd), int(float(tokens)))


def _cap(number: Number) -> Number | None:
    return None if number < 0 else number


def _declared(row: Sequence[Any]) -> Declared:
    field, value = row
    role, _, collection = field.decode().partition(" ")
    edited_us, config_us, fingerprint, place = value.decode().split(" ", 3)
    times = int(edited_us), int(config_us)
    source = Source(fingerprint.strip("-"), place, *times, serves=role == "worker")
    return Declared(collection, role, source)


def _workers(values: Sequence[bytes]) -> Iterator[WorkerSeen]:
    return readable("workers", _rows(values, 8), _worker)


def _worker(row: Sequence[bytes]) -> WorkerSeen:
    name, host, pid, slots, running, seen_s, report, draining = row
    return WorkerSeen(
        name.decode(),
        host.decode(),
        int(pid),
        int(slots),
        int(running),
        max(0.0, float(seen_s)),
        report,
        bool(draining),
    )


def as_runs(values: Sequence[tuple[bytes, Sequence[bytes]]]) -> list[KeptRun]:
    """Decode the reply of ``runs``."""
    return list(readable("runs", values, _kept))


def _kept(run: tuple[bytes, Sequence[bytes]]) -> KeptRun:
    name, fields = run[0].decode(), dict(_rows(run[1], 2))
    record = fields.pop(b"record")
    numbers = {key: _count(value) for key, value in fields.items()}
    known = {key: number for key, number in numbers.items() if number is not None}
    exact = len(known) == len(numbers) and b"tasks" in known and b"broken" not in known
    outcomes, configs = _ends(known)
    tasks = int(known.get(b"tasks", 0))
    if not exact:
        log.warning("run %s: its counts in the broker were overwritten, and are too low", name)
        tasks = max(tasks, sum(outcomes.values()))
    return KeptRun(
        name,
        record,
        tasks,
        exact=exact,
        outcomes=outcomes,
        configs=configs,
        rewarded=int(known.get(b"rewarded", 0)),
        rewards=known.get(b"rewards", 0.0),
        usd=known.get(b"usd", 0.0),
    )


def _ends(counts: Mapping[bytes, float]) -> tuple[dict[str, int], dict[str, int]]:
    """Count ended tasks by outcome and by config."""
    outcomes: dict[str, int] = {}
    configs: dict[str, int] = {}
    for key, number in counts.items():
        if key.startswith(b"done "):
            _, config, outcome = key.decode().split(" ")
            outcomes[outcome] = outcomes.get(outcome, 0) + int(number)
            configs[config] = configs.get(config, 0) + int(number)
    return outcomes, configs


def _count(value: bytes) -> float | None:
    """Decode a count; None if another program overwrote it with an invalid value."""
    try:
        number = float(value)
    except ValueError:
        return None
    return number if 0 <= number <= MAX_NUMBER else None
