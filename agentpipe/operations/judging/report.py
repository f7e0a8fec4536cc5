"""Reports: summaries of a stream of results, in total and by a field."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from agentpipe.core.outside import json_text
from agentpipe.errors import ConfigError
from agentpipe.operations.judging.rewards import Rewards
from agentpipe.operations.judging.samples import samples_of, total_usage
from agentpipe.operations.judging.spares import spares_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from agentpipe.core.result import Result
    from agentpipe.operations.judging.rewards import Estimate, PassK
    from agentpipe.operations.judging.samples import Sample
    from agentpipe.operations.judging.spares import Spares

FIELDS = (
    "group",
    "agent",
    "context",
    "collection",
    "outcome",
    "config_hash",
    "policy_version",
)
METADATA = "metadata."
# Stands for a missing value in a report by a field.
ABSENT = "-"


@dataclass(frozen=True, slots=True)
class Report:
    """Totals of some results.

    Attributes:
        pass_rate: Mean reward of the results that have one; None without any.
        duration_s: From the start of the first run to the end of the last.
        per_s: Results per second of that time.
        reward: The mean with its uncertainty; None without any reward.
        bounds: The mean over all results if each missing reward were 0, and if each were 1.
        pass_k: One entry for each requested ``k``.
        usage: Summed over results; ``usd`` only over the ``priced`` results.
        priced: Number of results with a known price.
        run_s: The 50th and the 95th percentile of run durations.
        retried: Number of results of tasks that ``retry`` sent again.
        replayed: Number of results of tasks that ``dead replay`` sent again.
        rescored: Number of results that are answers judged again.
        config_hashes: Number of results by config.
        spares: What groups with spares cut off, which favours quick runs; None if nothing.
    """

    results: int
    outcomes: dict[str, int]
    pass_rate: float | None
    rewarded: int
    duration_s: float
    per_s: float
    reward: Estimate | None
    bounds: tuple[float, float] | None
    pass_k: tuple[PassK, ...]
    usage: dict[str, float]
    priced: int
    run_s: tuple[float, float] | None
    retried: int
    replayed: int
    rescored: int
    config_hashes: dict[str, int]
    spares: Spares | None

    @property
    def passes_or_fails(self) -> bool:
        """Whether each reward is 0 or 1, so that their mean is a proportion."""
        return self.reward is not None and self.reward.binary

    def to_dict(self) -> dict[str, Any]:
        """The JSON of ``agentpipe report``."""
        return asdict(self)


def summarize(
    results: Iterable[Result],
    key: Callable[[Result], str] | None = None,
    pass_k: Sequence[int] = (),
) -> tuple[Report, dict[str, Report]]:
    """Read the results once; returns the report of all, and one for each value of ``key``.

    For a sample that was retried only the last attempt counts. Memory grows by some hundred bytes
    per result.
    """
    samples = samples_of(results, key)
    by = divided(samples, pass_k) if key else {}
    return report_of(samples, pass_k), by


def report_of(samples: Iterable[Sample], pass_k: Sequence[int] = ()) -> Report:
    """The report of some samples; computed field by field, which is faster than by sample."""
    listed = list(samples)
    total, rewards, run_s = len(listed), _rewards(listed), _run_s(listed)
    duration_s = _duration_s(listed) if run_s else 0.0
    estimate = rewards.estimate()
    usage = total_usage(it.usage for it in listed)
    return Report(
        results=total,
        outcomes=_by_number(it.outcome for it in listed),
        pass_rate=estimate.mean if estimate else None,
        rewarded=rewards.rewarded,
        duration_s=duration_s,
        per_s=total / duration_s if duration_s else 0.0,
        reward=estimate,
        bounds=rewards.bounds(),
        pass_k=tuple(map(rewards.pass_k, pass_k)),
        usage={name: round(number, 9) for name, number in sorted(usage.items())},
        priced=sum("usd" in it.usage for it in listed),
        run_s=_percentiles(run_s),
        retried=sum(it.is_retry for it in listed),
        replayed=sum(it.is_replay for it in listed),
        rescored=sum(it.is_rescored for it in listed),
        config_hashes=_by_number(it.config_hash for it in listed if it.config_hash),
        spares=spares_of(listed),
    )


def _by_number(values: Iterable[str]) -> dict[str, int]:
    """How often each value occurs, most frequent first."""
    return dict(Counter(values).most_common())


def _rewards(samples: Iterable[Sample]) -> Rewards:
    found = Rewards()
    for each in samples:
        found.add(each.group, each.reward)
    return found


def _run_s(samples: Iterable[Sample]) -> list[float]:
    return [
        it.finished - it.started
        for it in samples
        if it.started is not None and it.finished is not None
    ]


def _duration_s(samples: Sequence[Sample]) -> float:
    first = min(it.started for it in samples if it.started is not None)
    last = max(it.finished for it in samples if it.finished is not None)
    return max(0.0, last - first)


def divided(samples: Iterable[Sample], pass_k: Sequence[int]) -> dict[str, Report]:
    """A report for each key, sorted by key."""
    parts: defaultdict[str, list[Sample]] = defaultdict(list)
    for each in samples:
        parts[each.key].append(each)
    return {name: report_of(parts[name], pass_k) for name in sorted(parts)}


def group_of(result: Result) -> str:
    """The task that the result is a sample of; a task in no group is its own group."""
    return result.group_id or result.task_id


def key_of(field: str) -> Callable[[Result], str]:
    """Reads ``field``, one of ``FIELDS`` or ``metadata.KEY``, from a result.

    Raises:
        ConfigError: The field does not exist.
    """
    if field == "group":
        return group_of
    if field in FIELDS:
        return lambda result: _text(getattr(result, field))
    if field.startswith(METADATA) and (name := field.removeprefix(METADATA)):
        return lambda result: _text(result.metadata.get(name))
    raise ConfigError(f"--by {field}: choose from {', '.join(FIELDS)} and {METADATA}KEY")


def _text(value: Any) -> str:
    return ABSENT if value is None else json_text(value)


def _percentiles(run_s: list[float]) -> tuple[float, float] | None:
    """The smallest values that 50 % and 95 % of all values do not exceed."""
    if not run_s:
        return None
    ordered, number = sorted(run_s), len(run_s)
    return ordered[(number - 1) // 2], ordered[-(-number * 95 // 100) - 1]
