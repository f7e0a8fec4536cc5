"""Looks up tasks in the broker and in the stream, and explains where they are."""

from __future__ import annotations

import shlex
import time
from contextlib import closing
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from agentpipe.brokers import open_to_read
from agentpipe.brokers.capabilities import (
    KeepsLoops,
    KeepsRuns,
    KeepsUndeliverable,
    LocatesTasks,
    ReadsTasks,
    TaskQuery,
    require,
)
from agentpipe.brokers.removed import removed_agents
from agentpipe.connections.plugins import load_for_url
from agentpipe.connections.sqlite_address import is_absent
from agentpipe.core.run_names import is_of_run, run_of
from agentpipe.errors import AgentpipeError
from agentpipe.operations.explain import explain, explain_group
from agentpipe.operations.explain.of_loop import with_loop
from agentpipe.operations.loops import loop_of, loops_seen
from agentpipe.operations.runs import record_in
from agentpipe.sending.unclaimed import unclaimed_pages
from agentpipe.sinks import open_sink
from agentpipe.sinks.base import Index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.location import TaskLocation
    from agentpipe.brokers.statistics import Stats
    from agentpipe.operations.explain import Explanation
    from agentpipe.settings import Settings


def unsettled_of(run: str, settings: Settings) -> list[str]:
    """The ids of a run's tasks that run, wait or are delayed; running tasks first.

    Raises:
        ConfigError: This broker cannot list tasks.
    """
    with closing(open_to_read(settings)) as store:
        reads = require(store, ReadsTasks, "list a run's tasks: name them, as in why TASK")
        found = [it.task_id for it in reads.tasks(TaskQuery("running"))]
        for page in unclaimed_pages(reads):
            found += [it.task_id for it in page]
    return list(dict.fromkeys(it for it in found if is_of_run(it, run)))


def look_up(task_ids: Iterable[str], settings: Settings) -> Iterator[Explanation]:
    """Explain each task; changes nothing."""
    with closing(open_to_read(settings)) as store:
        locates = require(store, LocatesTasks, "locate tasks")
        snapshot = cache(store.stats)  # One for all tasks: its cost grows with the agents.
        for task_id in task_ids:
            facts = locates.locate(task_id)
            if facts.place == "unknown" and facts.group is not None and facts.group.open:
                member = locates.locate(facts.group.open[0])
                if member.group is not None:  # The group has not ended meanwhile.
                    alone = replace(member, group=None)
                    of_member = _explained(store, alone, settings, snapshot)
                    yield _with_loop(store, explain_group(member.group, of_member))
                    continue
            yield _with_loop(store, _explained(store, facts, settings, snapshot))


def _with_loop(store: Store, found: Explanation) -> Explanation:
    if found.state == "unknown" or not isinstance(store, KeepsLoops):
        return found
    loop = loop_of(found.task_id, loops_seen(store.loops()))
    return with_loop(found, loop, "" if loop else _run_of_a_loop(store, found.task_id))


def _run_of_a_loop(store: Store, task_id: str) -> str:
    """The task's run if a loop began that run; else empty."""
    run = run_of(task_id)
    kept = store.runs() if run and isinstance(store, KeepsRuns) else []
    return next((it.name for it in kept if it.name == run and "loop" in record_in(it)), "")


def _explained(
    store: Store, facts: TaskLocation, settings: Settings, snapshot: Callable[[], Stats]
) -> Explanation:
    position = _stream_position(facts, settings)
    found = explain(facts, time.time(), settings.outbox_limits, position)
    if found.reason == "no_worker":
        return _of_removed(snapshot, found)
    return _refused(store, found) if found.state == "settled" else found


def _of_removed(snapshot: Callable[[], Stats], found: Explanation) -> Explanation:
    """No worker will serve an agent that its collection no longer has."""
    agent, name = found.details["agent"], str(found.details["collection"])
    if not any(agent in each.agents for each in removed_agents(snapshot(), [name])):
        return found
    sentence = f"{found.sentence}; {name} no longer has this agent"
    what = f"agentpipe rebalance {shlex.quote(name)} moves its tasks to the agents that there are"
    return replace(found, sentence=sentence, next=what)


def _refused(store: Store, found: Explanation) -> Explanation:
    """Explain a settled task whose Result the sink refuses."""
    if not isinstance(store, KeepsUndeliverable):
        return found
    for letter in store.undeliverable.read_dead([found.task_id]):
        return replace(
            found,
            state="undeliverable",
            reason="undeliverable",
            sentence=f"the sink refuses its Result: {letter.reason}",
            next="mend the sink, then: agentpipe dead replay --undeliverable "
            + shlex.quote(found.task_id),
            since=letter.died_at,
        )
    return found


def _stream_position(facts: TaskLocation, settings: Settings) -> int | None:
    """The position of the task's Result in the stream, if the sink can search."""
    if facts.place not in ("settled", "unknown", "dead"):
        return None
    try:
        if not hasattr(load_for_url("agentpipe.sinks", settings.sink), "find"):
            return None  # No need to connect.
        if is_absent(settings.sink):  # Opening it would create it.
            return None
        with closing(open_sink(settings)) as sink:
            return sink.find(facts.task_id) if isinstance(sink, Index) else None
    except AgentpipeError:
        return None  # The broker's answer is enough.
