"""Stream: reads a sink's Results, each task once, and commits each after its use."""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Self

from agentpipe.errors import FormatError
from agentpipe.task import Result

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentpipe.settings import Settings
    from agentpipe.sinks.sink import Reader, Record, Sink, Start

# Repeats come from a crash between publishing and dropping, so they lie close together.
REMEMBERED_IDS = 200_000
BATCH = 100
POLL_S = 0.5

log = logging.getLogger(__name__)


class Stream:
    """Iterates over Results; a record is committed when the caller comes back for the next.

    A caller that leaves the loop early has not come back: its last record is read again by
    its group. Close it, or use it in a ``with``::

        with Stream.open(Settings(), start="beginning", timeout_s=5) as stream:
            for result in stream: ...

    Attributes:
        skipped: Records so far that were no Results.
        repeated: Records so far whose task had been seen.
    """

    def __init__(
        self, reader: Reader, *, timeout_s: float | None = None, sink: Sink | None = None
    ) -> None:
        """Read from ``reader``; it is closed with the stream, and so is ``sink`` if given."""
        self._reader, self._timeout_s, self._sink = reader, timeout_s, sink
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._stopped = False
        self.skipped = 0
        self.repeated = 0

    @classmethod
    def open(
        cls,
        settings: Settings,
        *,
        group: str | None = None,
        start: Start = "now",
        timeout_s: float | None = None,
    ) -> Self:
        """The stream of ``settings.sink``, from ``start`` or where ``group`` left off.

        Raises:
            ConfigError: The sink's URL is wrong.
            Unreachable: Nothing answers there.
        """
        from agentpipe.sinks import open_sink

        sink = open_sink(settings)
        return cls(sink.follow(group, start), timeout_s=timeout_s, sink=sink)

    def close(self) -> None:
        """Give back what was read and not used."""
        self._reader.close()
        if self._sink is not None:
            self._sink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stop(self) -> None:
        """End the loop with the record in hand, which counts as used."""
        self._stopped = True

    def __iter__(self) -> Iterator[Result]:
        """Until ``stop``, until ``timeout_s`` passes without a record, or for ever."""
        for record in self._records():
            result = self._decoded(record)
            if result is not None:
                yield result
            self._reader.commit(record)
            if self._stopped:
                return

    def _records(self) -> Iterator[Record]:
        timeout_s = math.inf if self._timeout_s is None else self._timeout_s
        quiet_until = time.monotonic() + timeout_s
        while True:
            left_s = max(0.0, quiet_until - time.monotonic())
            records = self._reader.poll(BATCH, min(POLL_S, left_s))
            for task_id in self._reader.recall():
                self._remember(task_id)
            yield from records
            if records:
                quiet_until = time.monotonic() + timeout_s
            elif time.monotonic() >= quiet_until:
                return

    def _decoded(self, record: Record) -> Result | None:
        try:
            result = Result.decode(record.payload)
        except FormatError as error:
            self.skipped += 1
            log.warning("skipped record %s of the stream: %s", record.position, error)
            return None
        if result.task_id in self._seen:
            self.repeated += 1
            return None
        self._remember(result.task_id)
        return result

    def _remember(self, task_id: str) -> None:
        self._seen[task_id] = None
        if len(self._seen) > REMEMBERED_IDS:
            self._seen.popitem(last=False)
