"""Results: the samples of each run in memory, read once from the archive in a separate thread.

A page of a large run must not wait until everything is read: it shows what is read so far.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from sys import intern
from types import MappingProxyType
from typing import TYPE_CHECKING

from agentpipe.archive import Archive
from agentpipe.archive.export.conversation import question_of
from agentpipe.core.text import one_line
from agentpipe.errors import AgentpipeError, ConfigError
from agentpipe.operations.judging.report import report_of
from agentpipe.operations.judging.samples import Sample, last_attempts
from agentpipe.web.figures import charts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    from agentpipe.core.result import Result
    from agentpipe.operations.judging.report import Report
    from agentpipe.settings import Settings
    from agentpipe.web.charts import Chart

# How long a page waits for its run to be read.
PATIENCE_S = 0.1
# Samples in memory, about a kilobyte each: the last samples of a run, and of all runs, those that
# were viewed last.
MOST_OF_RUN = 200_000
MOST_SAMPLES = 2 * MOST_OF_RUN
# How many are dropped at once, since each drop scans all others.
_DROPPED = 20_000
_SHOW_EVERY = 5_000
# Each intermediate view scans all samples, so a new one needs a quarter more.
_SHOW_PART = 4
_EXCERPT = 100
_NO_USAGE: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Extract:
    """What a list shows of a Result, besides its sample.

    Attributes:
        searched: The text that searches match, in lower case.
    """

    agent: str
    question: str
    error: str
    searched: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class RunView:
    """A snapshot of a run's results.

    Attributes:
        run: The run's name; empty for results without a run.
        samples: The last attempt at each sample, in the order in which they finished.
        searched: The text that searches match, for each sample.
        report: The report of all samples; None until all are read.
        charts: The charts of all samples; drawn once, since every page of the run shows them.
        read: How many results were read.
        left_out: How many of the first results were dropped because there are too many.
        complete: Whether all results are read.
        problem: Why the results cannot be read; empty if they can.
    """

    run: str
    samples: tuple[Sample, ...] = ()
    searched: tuple[str, ...] = field(default=(), repr=False)
    extracts: dict[str, Extract] = field(default_factory=dict, repr=False)
    report: Report | None = None
    charts: tuple[Chart, ...] = field(default=(), repr=False)
    read: int = 0
    left_out: int = 0
    complete: bool = False
    problem: str = ""


class _Reading:
    """A run's results as read so far. Not thread-safe, except ``view``."""

    def __init__(self, run: str) -> None:
        self.view = RunView(run)
        self.future: Future[None] | None = None
        self._attempts: list[Sample] = []
        self._extracts: dict[str, Extract] = {}
        self._after = self._read_so_far = self._left_out = 0
        self._oldest: tuple[float, str] | None = None

    def go_on(self, settings: Settings, stopping: threading.Event) -> None:
        """Read new results; update the view now and then, and at the end."""
        try:
            with Archive.open(settings) as archive:
                self._forget_trimmed(archive)
                self._read(archive, stopping)
        except AgentpipeError as error:
            self.view = replace(self.view, problem=str(error), complete=True)

    def _forget_trimmed(self, archive: Archive) -> None:
        """Start over if results were trimmed; a trim removes those that finished first."""
        if self._oldest is not None and archive.result(self._oldest[1]) is None:
            self._attempts, self._extracts, self._oldest = [], {}, None
            self._after = self._read_so_far = self._left_out = 0
            self.view = RunView(self.view.run)

    def _read(self, archive: Archive, stopping: threading.Event) -> None:
        run, before, shown_at = self.view.run, self._read_so_far, self._read_so_far
        for position, result in archive.records(run=run or None, after=self._after):
            self._after = position
            if run or result.run is None:
                self._add(result)
            if stopping.is_set():
                return
            if self._read_so_far - shown_at >= max(_SHOW_EVERY, len(self._attempts) // _SHOW_PART):
                shown_at = self._read_so_far
                self._show(None)
        if self._read_so_far > before or not self.view.complete or self.view.problem:
            self._show(report_of(last_attempts(self._attempts)))

    def _add(self, result: Result) -> None:
        self._read_so_far += 1
        self._attempts.append(_compact(Sample.of(result, questions=True)))
        finished = (result.finished or 0.0, result.task_id)
        self._oldest = min(self._oldest or finished, finished)
        self._extracts[result.task_id] = extract_of(result)
        if len(self._attempts) >= MOST_OF_RUN + _DROPPED:
            self._drop_first()

    def _drop_first(self) -> None:
        """Drop the samples that were read first; existing views keep them."""
        self._left_out += len(self._attempts) - MOST_OF_RUN
        self._attempts = self._attempts[-MOST_OF_RUN:]
        kept = {each.task_id for each in self._attempts}
        self._extracts = {name: it for name, it in self._extracts.items() if name in kept}

    def _show(self, report: Report | None) -> None:
        samples = sorted(last_attempts(self._attempts), key=lambda each: each.finished or 0.0)
        self.view = RunView(
            self.view.run,
            tuple(samples),
            tuple(self._extracts[each.task_id].searched for each in samples),
            self._extracts,
            report or self.view.report,
            tuple(charts_of(samples)) if report else self.view.charts,
            read=self._read_so_far,
            left_out=self._left_out,
            complete=report is not None,
        )


class RunResults:
    """Reads runs on demand, one after another."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, "agentpipe-web-results")
        self._mutex = threading.Lock()
        self._stopping = threading.Event()
        self._readings: OrderedDict[str, _Reading] = OrderedDict()

    def view(self, run: str, patience_s: float = PATIENCE_S) -> RunView:
        """The run as read so far; continues reading in the background."""
        with self._mutex:
            reading = self._readings.setdefault(run, _Reading(run))
            self._readings.move_to_end(run)
            if reading.future is None or reading.future.done():
                self._forget_some()
                reading.future = self._thread.submit(reading.go_on, self._settings, self._stopping)
        wait([reading.future], patience_s)
        return reading.view

    def runs(self) -> list[str]:
        """The names of the runs with a result; empty without an archive."""
        try:
            with Archive.open(self._settings) as archive:
                return archive.runs()
        except ConfigError:
            return []

    def result(self, task_id: str) -> Result | None:
        """The last Result of a task."""
        with Archive.open(self._settings) as archive:
            return archive.result(task_id)

    def compute(self, work: Callable[[], None]) -> Future[None]:
        """Run ``work`` in the reading thread."""
        return self._thread.submit(work)

    def stop(self) -> None:
        """Stop the thread."""
        self._stopping.set()
        self._thread.shutdown(cancel_futures=True)

    def _forget_some(self) -> None:
        """Drop runs that are not being read, least recently viewed first, to make room."""
        views = {name: each.view for name, each in self._readings.items()}
        sizes = {name: view.read - view.left_out for name, view in views.items()}
        for name in list(self._readings)[:-1]:
            if sum(sizes.values()) - sizes[next(reversed(sizes))] <= MOST_SAMPLES - MOST_OF_RUN:
                break
            future = self._readings[name].future
            if future is None or future.done():
                del self._readings[name], sizes[name]


def _compact(sample: Sample) -> Sample:
    """The sample with shared copies of values that many samples have, to save memory."""
    return sample._replace(
        run=sample.run and intern(sample.run),
        outcome=intern(sample.outcome),
        config_hash=sample.config_hash and intern(sample.config_hash),
        usage=sample.usage or _NO_USAGE,
    )


def extract_of(result: Result) -> Extract:
    """What lists show of a Result."""
    error = result.error or {}
    said = f"{error.get('type', '')}: {error.get('message', '')}" if error else ""
    agent, question = intern(result.agent or ""), one_line(question_of(result) or "", _EXCERPT)
    error_line = one_line(said, _EXCERPT)
    searched = f"{result.task_id} {question} {agent} {error_line}".lower()
    return Extract(agent, question, error_line, searched)
