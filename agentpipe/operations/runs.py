"""Runs: what they were sent from, and their results so far."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.brokers.capabilities import KeepsRuns, require
from agentpipe.connections.sqlite_address import is_absent
from agentpipe.core.budgets import tokens_in
from agentpipe.core.did_you_mean import unknown
from agentpipe.errors import ConfigError
from agentpipe.operations.judging.reading import ResultsOfRuns
from agentpipe.operations.judging.report import summarize
from agentpipe.sinks import is_searchable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.runs import KeptRun
    from agentpipe.operations.judging.report import Report
    from agentpipe.settings import Settings


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A summary of one run.

    Attributes:
        tasks: Number of accepted tasks, including replays and retries.
        tasks_exact: Whether ``tasks`` is exact; otherwise it is a lower bound.
        done: Number of tasks with a Result; None, like ``outcomes``, if nothing counts them.
        pass_rate: The mean reward; ``low`` and ``high`` bound its 95 % interval.
        rewarded: Number of results with a reward.
        tokens: In and out; None, like ``took_s``, if only the broker was asked.
        usd: As far as prices are known; None if none is. A broker only adds up: its 0 is none.
        configs: Number of results by config fingerprint.
        results_from: ``archive``; or ``broker`` if the sink is not an archive, or has no result
            of this run.
        archived: Number of results in the archive; None if the sink is not an archive.
    """

    name: str
    collection: str | None
    tasks: int
    tasks_exact: bool
    done: int | None
    outcomes: Mapping[str, int] | None
    pass_rate: float | None
    low: float | None
    high: float | None
    rewarded: int
    tokens: int | None
    usd: float | None
    begun_at: str | None
    took_s: float | None
    configs: Mapping[str, int]
    results_from: str
    archived: int | None = None

    @property
    def trimmed(self) -> int:
        """Number of results not in the archive: trimmed, or still on their way."""
        return 0 if self.archived is None else max(0, (self.done or 0) - self.archived)

    def to_dict(self) -> dict[str, Any]:
        """The JSON of ``agentpipe runs``."""
        return asdict(self)


def summaries(store: Store, settings: Settings) -> list[RunSummary]:
    """All runs of the broker, in the order in which they began."""
    return _summaries(kept_runs(store), settings)


def summary(store: Store, settings: Settings, name: str) -> RunSummary:
    """Summarize one run.

    Raises:
        ConfigError: The run does not exist.
    """
    (found,) = _summaries([kept_run(store, name)], settings)
    return found


def _summaries(found: list[KeptRun], settings: Settings) -> list[RunSummary]:
    # Until the first result arrives, the archive has no file.
    if not found or not is_searchable(settings) or is_absent(settings.sink):
        return [by_store(each) for each in found]
    return [_by_archive(each, settings) for each in found]


def kept_runs(store: Store) -> list[KeptRun]:
    """The runs as the broker keeps them.

    Raises:
        ConfigError: This broker does not support runs.
    """
    return require(store, KeepsRuns, "keep runs").runs()


def kept_run(store: Store, name: str) -> KeptRun:
    """One run as the broker keeps it.

    Raises:
        ConfigError: The run does not exist; the message has the nearest name.
    """
    by_name = {run.name: run for run in kept_runs(store)}
    if name not in by_name:
        raise ConfigError(unknown("run", name, by_name, "on this broker"))
    return by_name[name]


def record_in(run: KeptRun) -> dict[str, Any]:
    """The run's provenance; empty if agentpipe did not write it."""
    return parsed_record(run.record)


def parsed_record(kept: bytes) -> dict[str, Any]:
    """The provenance in a record; empty if it is not valid."""
    try:
        record = orjson.loads(kept)
    except orjson.JSONDecodeError:
        return {}
    return record if isinstance(record, dict) else {}


def by_store(run: KeptRun) -> RunSummary:
    """Summarize by the broker's counts, without the results."""
    return _summary(
        run,
        done=sum(run.outcomes.values()) if run.outcomes is not None else None,
        outcomes=run.outcomes,
        pass_rate=run.rewards / run.rewarded if run.rewarded else None,
        rewarded=run.rewarded,
        usd=run.usd or None,
        configs=run.known_configs,
        results_from="broker",
    )


def _by_archive(run: KeptRun, settings: Settings) -> RunSummary:
    results = ResultsOfRuns(settings, [run.name])
    report, _ = summarize(results)
    settled = sum((run.outcomes or {}).values())
    # If the broker does not count results either (RabbitMQ), they may be trimmed or not there yet.
    if not results.number and (settled or run.outcomes is None):
        return replace(by_store(run), archived=0)
    return by_report(run, report, max(settled, results.number), archived=results.number)


def by_report(run: KeptRun, report: Report, done: int, archived: int | None = None) -> RunSummary:
    """Summarize by the report of its results, with the numbers known and still archived."""
    mean, usage = report.reward, report.usage
    return _summary(
        run,
        done=done,
        outcomes=report.outcomes,
        pass_rate=report.pass_rate,
        low=mean.low if mean else None,
        high=mean.high if mean else None,
        rewarded=report.rewarded,
        tokens=tokens_in(usage),
        usd=usage.get("usd"),
        took_s=report.duration_s,
        configs=report.config_hashes,
        results_from="archive",
        archived=archived,
    )


def _summary(run: KeptRun, **figures: Any) -> RunSummary:
    record = record_in(run)
    unknown_ones = dict.fromkeys(("low", "high", "tokens", "took_s"))
    return RunSummary(
        name=run.name,
        collection=_text(record.get("collection")),
        tasks=run.tasks,
        tasks_exact=run.exact,
        begun_at=_text(record.get("begun_at")),
        **{**unknown_ones, **figures},
    )


def _text(value: Any) -> str | None:
    """A text field of a record that others may have written."""
    return value if isinstance(value, str) else None
