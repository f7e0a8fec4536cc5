"""A report as one HTML file, without scripts, external files or links."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from agentpipe import __version__
from agentpipe.errors import ConfigError
from agentpipe.operations.judging.rewards import PASSED
from agentpipe.operations.judging.samples import Sample, last_attempts
from agentpipe.web.figures import charts_of
from agentpipe.web.pages import Pages
from agentpipe.web.results import Extract, extract_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from agentpipe.core.result import Result
    from agentpipe.operations.judging.report import Report

# Failed samples come first.
MOST_ROWS = 1_000


class ReportSamples:
    """Collects the samples of a report while they are read."""

    def __init__(self) -> None:
        self._samples: list[Sample] = []
        self._extracts: dict[str, Extract] = {}

    def noted(self, results: Iterable[Result]) -> Iterator[Result]:
        """Collect the results and yield them unchanged."""
        for result in results:
            self._samples.append(Sample.of(result))
            self._extracts[result.task_id] = extract_of(result)
            yield result

    def write(self, file: Path, title: str, whole: Report, parts: Mapping[str, Report]) -> None:
        """Write the file.

        Raises:
            ConfigError: The file cannot be written.
        """
        html = self._html(title, whole, parts)
        try:
            file.write_text(html, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise ConfigError(f"--html {file}: cannot write it: {error.strerror}") from error

    def _html(self, title: str, whole: Report, parts: Mapping[str, Report]) -> str:
        samples = sorted(last_attempts(self._samples), key=_failed_first)
        rows = [(each, self._extracts[each.task_id]) for each in samples[:MOST_ROWS]]
        style = (Path(__file__).parent / "static" / "style.css").read_text(encoding="utf-8")
        values: dict[str, Any] = {
            "title": title,
            "report": whole,
            "parts_of": parts,
            "charts": charts_of(samples),
            "rows": rows,
            "left_out": len(samples) - len(rows),
        }
        return Pages({"version": __version__}).html("report.html", style=Markup(style), **values)  # noqa: S704 - our own file


def _failed_first(sample: Sample) -> tuple[bool, float, str]:
    reward = -1.0 if sample.reward is None else sample.reward
    return sample.outcome == "ok" and reward >= PASSED, reward, sample.task_id
