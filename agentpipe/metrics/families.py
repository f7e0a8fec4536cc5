"""Families: a store's snapshot as metrics. No I/O.

What a store cannot know is absent, because 0 would be a claim. No metric is labelled by task,
worker or agent, so the number of time series does not grow with the fleet.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from agentpipe.brokers.measures import cumulative_counts
from agentpipe.core.groups import MEMBERS, STATUSES, UNUSED
from agentpipe.core.outside import valid_text
from agentpipe.operations.stats import undelivered_s
from agentpipe.worker.claims.heartbeat import Heartbeat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from agentpipe.brokers.measures import Histogram, Measures
    from agentpipe.brokers.statistics import GroupCounts, QueueDepth, Stats
    from agentpipe.core.loop_holds import LoopState
    from agentpipe.core.policy import PolicyState

_STATES = ("waiting", "delayed", "running")
_DRAMATIQ = ("queue_name", "actor_name")


def families_of(stats: Stats, *, openmetrics: bool = False) -> Iterator[Metric]:
    """All metrics of one snapshot.

    In OpenMetrics a counter's name has no ``_total``, so ``agentpipe_tasks_total`` would collide
    with the gauge ``agentpipe_tasks``. It is therefore untyped there; queries are not affected.
    """
    yield from _of_queues(stats)
    yield from _of_store(stats)
    yield from _of_workers(stats)
    if stats.measures is not None:
        measures = {valid_text(name): it for name, it in stats.measures.items()}
        ended = _ended_tasks(measures)
        yield _untyped(ended) if openmetrics else ended
        yield from _of_measures(measures)
        yield from _as_dramatiq(measures)
    if stats.groups is not None:
        yield from _of_groups(stats.groups)
    if stats.policies:
        yield from _of_policies(stats.policies)
    if stats.loops:
        yield _of_loops(stats.loops)
    yield from _in_progress(stats)


def _of_policies(policies: Sequence[PolicyState]) -> Iterator[Metric]:
    version = GaugeMetricFamily(
        "agentpipe_policy_version", "The version that was published last.", labels=("policy",)
    )
    stale = GaugeMetricFamily(
        "agentpipe_staleness",
        "How many versions older than the one it trains the group will be that began last.",
        labels=("policy",),
    )
    for it in policies:
        version.add_metric((it.name,), it.version)
        if it.staleness is not None:
            stale.add_metric((it.name,), it.staleness)
    yield from (version, stale)


def _of_loops(loops: Sequence[LoopState]) -> Metric:
    text = "For how long nothing was heard of the trainer that has a loop."
    silent = GaugeMetricFamily("agentpipe_loop_silent_seconds", text, labels=("loop",))
    for it in loops:
        silent.add_metric((valid_text(it.name),), it.silent_s)
    return silent


def _owner(depth: QueueDepth) -> str:
    """The metric's label: the queue's collection, or the queue itself if it has none."""
    return valid_text(depth.collection or depth.queue)


def _by_owner(
    stats: Stats, value_of: Callable[[QueueDepth], float | None], merge: Callable[..., float]
) -> dict[str, float]:
    """A value per collection; none for a collection with a queue whose value is unknown."""
    values: dict[str, list[float | None]] = {}
    for depth in stats.queues:
        values.setdefault(_owner(depth), []).append(value_of(depth))
    return {
        owner: merge(it or 0.0 for it in found)
        for owner, found in values.items()
        if None not in found
    }


def _gauge(name: str, text: str, values: Mapping[str, float]) -> Metric:
    gauge = GaugeMetricFamily(name, text, labels=("collection",))
    for owner, value in values.items():
        gauge.add_metric((owner,), value)
    return gauge


def _of_queues(stats: Stats) -> Iterator[Metric]:
    tasks = GaugeMetricFamily(
        "agentpipe_tasks", "Tasks that are not done.", labels=("collection", "state")
    )
    for state in _STATES:
        for owner, number in _by_owner(stats, lambda it: getattr(it, state), sum).items():  # noqa: B023 - called at once
            tasks.add_metric((owner, state), number)
    yield tasks
    limits = _by_owner(stats, lambda it: 0 if it.removed else it.limit, sum)
    yield _gauge("agentpipe_queue_limit", "How many tasks may wait.", limits)
    cooldowns = _by_owner(stats, lambda it: it.cooldown_s, max)
    yield _gauge(
        "agentpipe_cooldown_seconds",
        "How long until all agents may run again, whose service was at its limit.",
        cooldowns,
    )
    paused = _by_owner(stats, lambda it: float(it.paused), max)
    yield _gauge("agentpipe_paused", "Whether agents are paused, for whatever reason.", paused)
    breakers = _by_owner(stats, _is_open, max)
    yield _gauge(
        "agentpipe_breaker_open", "Whether runs that failed alike have paused it.", breakers
    )


def _is_open(depth: QueueDepth) -> float:
    return float(bool(depth.pause_reason) and not depth.budget_spent)


def _of_store(stats: Stats) -> Iterator[Metric]:
    heartbeats = [Heartbeat.decode(worker.report) for worker in stats.workers]
    known = (
        ("agentpipe_outbox_results", "Results that the sink has not confirmed.", stats.outbox),
        (
            "agentpipe_outbox_age_seconds",
            "The age of the oldest result that the sink has not confirmed.",
            undelivered_s(stats, heartbeats),
        ),
        ("agentpipe_dead_letters", "Tasks that were given up and are kept.", stats.dead),
    )
    for name, text, value in known:
        if value is not None:
            yield GaugeMetricFamily(name, text, value=value)


def _of_workers(stats: Stats) -> Iterator[Metric]:
    yield GaugeMetricFamily("agentpipe_workers", "Living workers.", value=len(stats.workers))
    slots = GaugeMetricFamily("agentpipe_slots", "Room for runs in workers.", labels=("state",))
    busy = sum(worker.running for worker in stats.workers)
    slots.add_metric(("busy",), busy)
    slots.add_metric(("free",), max(0, sum(worker.slots for worker in stats.workers) - busy))
    yield slots
    lags = [Heartbeat.decode(worker.report).lag_s for worker in stats.workers]
    if known := [lag_s for lag_s in lags if lag_s is not None]:
        text = "The longest delay of a worker's event loop lately."
        yield GaugeMetricFamily("agentpipe_loop_lag_seconds", text, value=max(known))


def _of_groups(groups: GroupCounts) -> Iterator[Metric]:
    yield GaugeMetricFamily("agentpipe_groups_open", "Groups not ended yet.", value=groups.open)
    counted = (
        ("agentpipe_groups", "Groups that ended.", "status", STATUSES),
        ("agentpipe_group_members", "Members that ended, by use.", "use", MEMBERS),
        ("agentpipe_groups_unused", "Complete groups that trained nothing.", "reason", UNUSED),
    )
    for name, text, label, values in counted:
        family = CounterMetricFamily(name, text, labels=(label,))
        for value in values:
            family.add_metric((value,), getattr(groups, value))
        yield family


def _ended_tasks(measures: Mapping[str, Measures]) -> Metric:
    tasks = CounterMetricFamily(
        "agentpipe_tasks", "Tasks that ended.", labels=("collection", "outcome")
    )
    for name, it in measures.items():
        _add_all(tasks, name, it.outcomes)
    return tasks


def _untyped(counter: Metric) -> Metric:
    family = Metric(f"{counter.name}_total", counter.documentation, "unknown")
    family.samples = counter.samples
    return family


def _of_measures(measures: Mapping[str, Measures]) -> Iterator[Metric]:
    tokens = CounterMetricFamily(
        "agentpipe_tokens", "Tokens of runs; cached ones are input.", labels=("collection", "kind")
    )
    cost = CounterMetricFamily(
        "agentpipe_cost_usd", "The cost of runs, as far as known.", labels=("collection",)
    )
    for name, it in measures.items():
        _add_all(tokens, name, it.tokens)
        cost.add_metric((name,), it.usd)
    yield from (tokens, cost)
    yield _histogram(
        "agentpipe_run_duration_seconds",
        "How long runs took, evaluation included.",
        {(name,): it.run_s for name, it in measures.items()},
    )
    yield _histogram(
        "agentpipe_wait_duration_seconds",
        "How long tasks waited for their first run.",
        {(name,): it.wait_s for name, it in measures.items()},
    )


def _add_all(family: Any, name: str, numbers: Mapping[str, float]) -> None:
    for kind, number in numbers.items():
        family.add_metric((name, kind), number)


def _histogram(
    name: str,
    text: str,
    times: Mapping[tuple[str, ...], Histogram],
    *,
    labels: tuple[str, ...] = ("collection",),
    per_s: float = 1.0,
) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, it in times.items():
        buckets = [(_limit(limit * per_s), total) for limit, total in cumulative_counts(it.counts)]
        family.add_metric(values, buckets, it.sum_s * per_s)
    return family


def _limit(limit: float) -> str:
    return "+Inf" if limit == float("inf") else f"{limit:.10g}" if limit % 1 else f"{limit:.1f}"


def _as_dramatiq(measures: Mapping[str, Measures]) -> Iterator[Metric]:
    """Metrics under the names of Dramatiq's exporter; a collection's agents are one actor."""
    counted: dict[str, tuple[str, Callable[[Measures], float]]] = {
        "messages": ("Messages processed.", lambda it: _ended(it) + it.retries),
        "message_errors": ("Messages that ended in an error.", _errors),
        "message_retries": ("Messages that are tried again.", lambda it: it.retries),
        "message_rejects": ("Messages that became dead letters.", lambda it: it.rejects),
    }
    for name, (text, number_of) in counted.items():
        family = CounterMetricFamily(f"dramatiq_{name}", text, labels=_DRAMATIQ)
        for owner, it in measures.items():
            family.add_metric((owner, owner), number_of(it))
        yield family
    yield _histogram(
        "dramatiq_message_duration_milliseconds",
        "How long messages took.",
        {(owner, owner): it.run_s for owner, it in measures.items()},
        labels=_DRAMATIQ,
        per_s=1000.0,
    )


def _ended(it: Measures) -> float:
    return sum(it.outcomes.values())


def _errors(it: Measures) -> float:
    good = it.outcomes["ok"] + it.outcomes["cancelled"]
    return _ended(it) - good + it.retries


def _in_progress(stats: Stats) -> Iterator[Metric]:
    running = Counter[str]()
    for depth in stats.queues:
        if depth.running is None:
            return
        running[_owner(depth)] += depth.running
    family = GaugeMetricFamily(
        "dramatiq_messages_inprogress", "Messages that are processed now.", labels=_DRAMATIQ
    )
    for owner, number in running.items():
        family.add_metric((owner, owner), number)
    yield family
