"""Reading: the results of runs, from an archive if there is one, else from the whole stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.archive import Archive
from agentpipe.connections.sqlite_address import is_absent
from agentpipe.sinks import is_searchable
from agentpipe.sinks.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from agentpipe.core.result import Result
    from agentpipe.settings import Settings


class ResultsOfRuns:
    """Iterates once over the results of the named runs, or of all runs if none is named.

    Attributes:
        skipped: Number of records that were not Results.
        number: Number of Results so far.
    """

    def __init__(self, settings: Settings, runs: Collection[str] = ()) -> None:
        self._settings, self._runs = settings, runs
        self.skipped = self.number = 0

    def __iter__(self) -> Iterator[Result]:
        searched = self._runs and is_searchable(self._settings)
        for result in self._found() if searched else self._scanned():
            self.number += 1
            yield result

    def _found(self) -> Iterator[Result]:
        if is_absent(self._settings.sink):  # The first result is on its way.
            return
        with Archive.open(self._settings) as archive:
            for run in dict.fromkeys(self._runs):
                yield from archive.results(run=run)

    def _scanned(self) -> Iterator[Result]:
        with Stream.open(self._settings, start="beginning", timeout_s=0) as stream:
            for result in stream:
                if not self._runs or result.run in self._runs:
                    yield result
            self.skipped = stream.skipped
