"""Archive: stored results in the file of an embedded sink, for later queries."""

from __future__ import annotations

import os
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from agentpipe.archive.export.columns import columns
from agentpipe.archive.export.frames import frame_of
from agentpipe.core.groups import GroupEnd, is_group_record
from agentpipe.core.result import Result
from agentpipe.errors import ConfigError, FormatError
from agentpipe.settings import Settings
from agentpipe.sinks import is_searchable, open_archive
from agentpipe.sinks.base import KnowsRuns, Query

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentpipe.sinks.base import Record, Searchable


class Archive:
    """Finds results by their fields; close it, or use it in a ``with``.

    ::

        with Archive.open() as archive:
            answer = archive.result("v2/p007/3")
            failed = list(archive.results(run="v2", outcome="agent_error"))
    """

    def __init__(self, sink: Searchable) -> None:
        self._sink = sink

    @classmethod
    def open(cls, settings: Settings | None = None) -> Self:
        """The archive of ``settings``, by default the environment's.

        Reading works beside live workers, and in a folder that you cannot write. If you can write,
        a search may first complete the archive's indices: up to 40 s for a million results, during
        which others can continue. Finding a task or a run never does that.

        Raises:
            ConfigError: The sink is a server, which cannot be searched, or its file is missing.
        """
        settings = settings or Settings.from_env(os.environ)
        if not is_searchable(settings):
            raise ConfigError(
                "this sink is not an archive: collect its results into one with 'agentpipe collect "
                "--to results.db', then name that with --sink sqlite:///results.db"
            )
        return cls(open_archive(settings))

    def results(
        self,
        *,
        run: str | None = None,
        group: str | None = None,
        collection: str | None = None,
        outcome: str | None = None,
        agent: str | None = None,
        finished_from: float | None = None,
        finished_before: float | None = None,
        published_from: float | None = None,
        published_before: float | None = None,
    ) -> Iterator[Result]:
        """Results that match all given values, in the order of the stream.

        Times are Unix seconds; ``published`` is when the sink took the result.
        """
        return self._found(
            Query(
                run=run,
                group=group,
                collection=collection,
                outcome=outcome,
                agent=agent,
                finished_from=finished_from,
                finished_before=finished_before,
                published_from=published_from,
                published_before=published_before,
            )
        )

    def frame(
        self,
        *,
        run: str | None = None,
        group: str | None = None,
        collection: str | None = None,
        outcome: str | None = None,
        trace: bool = True,
    ) -> Any:
        """Matching results as a ``pandas.DataFrame`` with the columns of ``agentpipe export``.

        Raises:
            MissingExtra: pandas is not installed.
        """
        found = self.results(run=run, group=group, collection=collection, outcome=outcome)
        return frame_of(found, columns(trace=trace))

    def records(
        self, *, run: str | None = None, after: int | None = None
    ) -> Iterator[tuple[int, Result]]:
        """Results of a run, or all, after a stream position, each with its own position."""
        for record in self._sink.search(Query(run=run, after=after)):
            position = record.position
            if isinstance(position, int) and (after is None or position > after):
                with suppress(FormatError):
                    yield position, Result.decode(record.payload)

    def skipped(self) -> int:
        """Number of records that are not results and are skipped; reads the whole archive."""
        return sum(not _is_read(record) for record in self._sink.search(Query()))

    def last_of(self, agent: str, number: int) -> list[Result]:
        """The last results of an agent in the stream, newest first."""
        found = deque(self._found(Query(agent=agent, last=number)), number)
        return list(reversed(found))

    def runs(self) -> list[str]:
        """The names of all runs with a result in this archive."""
        return list(self._sink.runs()) if isinstance(self._sink, KnowsRuns) else []

    def result(self, task_id: str) -> Result | None:
        """The last Result of a task; None if the archive has none."""
        last = None
        for result in self.results_of(task_id):
            last = result
        return last

    def results_of(self, task_id: str) -> Iterator[Result]:
        """Every Result with this id, oldest first: an id can be used again after a purge."""
        return self._found(Query(task_id=task_id))

    def _found(self, query: Query) -> Iterator[Result]:
        for record in self._sink.search(query):
            try:
                yield Result.decode(record.payload)
            except FormatError:
                continue

    def close(self) -> None:
        """Close the file."""
        self._sink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_read(record: Record) -> bool:
    try:
        kind = GroupEnd if is_group_record(record.payload) else Result
        kind.decode(record.payload)
    except FormatError:
        return False
    return True
