"""Reports: what a stream of results says, as a whole and by a field."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.errors import ConfigError
from agentpipe.operations.judging.rewards import Rewards
from agentpipe.operations.judging.samples import samples_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from agentpipe.core.result import Result
    from agentpipe.operations.judging.rewards import Estimate, PassK
    from agentpipe.operations.judging.samples import Sample

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
# A value that is missing, in a report by a field.
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
        pass_k: By the ``k`` that was asked for.
        usage: Summed over results; ``usd`` over those with a known price, ``priced`` of them.
        run_s: The 50th and the 95th percentile of how long a run took.
        retried: How many results are of a task that ``retry`` sent again.
        replayed: The same of ``dead replay``.
        rescored: How many are answers that were judged again.
        config_hashes: How many results each config gave.
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

    @property
    def passes_or_fails(self) -> bool:
        """Whether each reward is 0 or 1, so that their mean is a share."""
        return self.reward is not None and self.reward.binary

    def to_dict(self) -> dict[str, Any]:
        """The JSON of ``agentpipe report``."""
        return asdict(self)


class _Totals:
    """Takes samples one by one."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.config_hashes: Counter[str] = Counter()
        self.rewards = Rewards()
        self.usage = defaultdict[str, float](float)
        self.priced = self.retried = self.replayed = self.rescored = 0
        self.first, self.last = math.inf, -math.inf
        self.run_s: list[float] = []

    def add(self, sample: Sample) -> None:
        self.outcomes[sample.outcome] += 1
        self.rewards.add(sample.group, sample.reward)
        usage, total = sample.usage, self.usage
        for name in usage:
            total[name] += usage[name]
        self.priced += "usd" in usage
        self.retried += sample.is_retry
        self.replayed += sample.is_replay
        self.rescored += sample.is_rescored
        if sample.config_hash:
            self.config_hashes[sample.config_hash] += 1
        self._add_times(sample)

    def _add_times(self, sample: Sample) -> None:
        started, finished = sample.started, sample.finished
        if started is not None and started < self.first:
            self.first = started
        if finished is not None and finished > self.last:
            self.last = finished
        if started is not None and finished is not None:
            self.run_s.append(finished - started)

    def report(self, pass_k: Sequence[int]) -> Report:
        total = self.outcomes.total()
        duration_s = max(0.0, self.last - self.first) if self.run_s else 0.0
        estimate = self.rewards.estimate()
        return Report(
            results=total,
            outcomes=dict(self.outcomes.most_common()),
            pass_rate=estimate.mean if estimate else None,
            rewarded=self.rewards.rewarded,
            duration_s=duration_s,
            per_s=total / duration_s if duration_s else 0.0,
            reward=estimate,
            bounds=self.rewards.bounds(),
            pass_k=tuple(map(self.rewards.pass_k, pass_k)),
            usage={name: round(number, 9) for name, number in sorted(self.usage.items())},
            priced=self.priced,
            run_s=_percentiles(self.run_s),
            retried=self.retried,
            replayed=self.replayed,
            rescored=self.rescored,
            config_hashes=dict(self.config_hashes.most_common()),
        )


def summarize(
    results: Iterable[Result],
    key: Callable[[Result], str] | None = None,
    pass_k: Sequence[int] = (),
) -> tuple[Report, dict[str, Report]]:
    """Read the results once; returns the report of all, and one for each value of ``key``.

    Of a sample that was tried again only the last attempt counts. Memory grows by some hundred
    bytes for each result.
    """
    samples = samples_of(results, key)
    by = divided(samples, pass_k) if key else {}
    return report_of(samples, pass_k), by


def report_of(samples: Iterable[Sample], pass_k: Sequence[int] = ()) -> Report:
    """The report of some samples."""
    totals = _Totals()
    for each in samples:
        totals.add(each)
    return totals.report(pass_k)


def divided(samples: Iterable[Sample], pass_k: Sequence[int]) -> dict[str, Report]:
    """A report for each key, in their order."""
    parts = defaultdict[str, _Totals](_Totals)
    for each in samples:
        parts[each.key].add(each)
    return {name: parts[name].report(pass_k) for name in sorted(parts)}


def group_of(result: Result) -> str:
    """The task whose sample it is; a task that is no sample is alone in its group."""
    return result.group_id or result.task_id


def key_of(field: str) -> Callable[[Result], str]:
    """Reads ``field``, one of ``FIELDS`` or ``metadata.KEY``, from a result.

    Raises:
        ConfigError: There is no such field.
    """
    if field == "group":
        return group_of
    if field in FIELDS:
        return lambda result: _text(getattr(result, field))
    if field.startswith(METADATA) and (name := field.removeprefix(METADATA)):
        return lambda result: _text(result.metadata.get(name))
    raise ConfigError(f"--by {field}: choose from {', '.join(FIELDS)} and {METADATA}KEY")


def _text(value: Any) -> str:
    if value is None:
        return ABSENT
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _percentiles(run_s: list[float]) -> tuple[float, float] | None:
    """The smallest values that half, and 95 %, of all do not exceed."""
    if not run_s:
        return None
    ordered, number = sorted(run_s), len(run_s)
    return ordered[(number - 1) // 2], ordered[-(-number * 95 // 100) - 1]
