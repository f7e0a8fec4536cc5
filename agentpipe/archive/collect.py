"""Collector: writes a stream into an archive, each submission once.

It reads as a group. The group's position moves only after the archive's transaction: a kill in
between repeats records, and repeated records are left out because the archive already has them.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from agentpipe.core.groups import is_group_record
from agentpipe.core.result import Result
from agentpipe.errors import FormatError, Unreachable
from agentpipe.sinks.base import Record
from agentpipe.sinks.polling import Polling

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agentpipe.sinks.base import Reader

# One transaction of the archive, with one fsync.
BATCH, BATCH_BYTES = 4_000, 16 * 1024**2
# The stream continues meanwhile: a batch is written once it is this old, however small.
BATCH_S = 0.5
POLL, POLL_S = 500, 0.2

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Collected:
    """The progress of a collector.

    Attributes:
        collected: Results that were new to the archive.
        repeated: Results that it already had.
        skipped: Records that are not Results.
    """

    collected: int = 0
    repeated: int = 0
    skipped: int = 0


class Target(Protocol):
    """The destination of a stream: an archive, or a collector of traces."""

    def add_new(self, records: Sequence[Record]) -> int:
        """Store new records, each once; returns their number once they are durable."""


class Collector:
    """Reads one stream into one archive or another ``Target``."""

    def __init__(self, reader: Reader, archive: Target) -> None:
        """Create a collector; the caller closes ``reader`` and ``archive``."""
        self._reader, self._archive = reader, archive
        self._stopped = False
        self._polling = Polling(reader)
        self.done = Collected()

    def stop(self) -> None:
        """End after the current batch; callable from a signal handler."""
        self._stopped = True

    def run(self, timeout_s: float | None, progress: Callable[[int], None]) -> Collected:
        """Collect until ``stop``, or until ``timeout_s`` passes without a record.

        Args:
            timeout_s: None waits forever.
            progress: Called with the number of new results after each batch.

        Raises:
            Unreachable: The archive does not answer, or the stream still did not at the end.
        """
        quiet_s = math.inf if timeout_s is None else timeout_s
        quiet_since = None
        while not self._stopped:
            batch = self._batch()  # The first poll may wait for the lease of a killed reader.
            quiet_since = quiet_since or time.monotonic()
            if batch:
                progress(self._keep(batch))
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since >= quiet_s:
                if self._polling.outage is not None:
                    raise self._polling.outage
                break
        return self.done

    def _batch(self) -> list[Record]:
        """The next records, as many as are available at once."""
        batch: list[Record] = []
        size, until = 0, time.monotonic() + BATCH_S
        while len(batch) < BATCH and size < BATCH_BYTES and not self._stopped:
            records = self._polling.poll(POLL, 0.0 if batch else POLL_S)
            batch += records
            size += sum(len(each.payload) for each in records)
            if time.monotonic() > until or not (records and batch):
                break
        return batch

    def _keep(self, batch: list[Record]) -> int:
        results = [found for each in batch if (found := self._result(each)) is not None]
        new = self._archive.add_new(results) if results else 0
        self.done = replace(
            self.done,
            collected=self.done.collected + new,
            repeated=self.done.repeated + len(results) - new,
        )
        # Only now: after a kill, repeated records are in the archive, lost ones were not committed.
        self._commit(batch[-1])
        return new

    def _commit(self, record: Record) -> None:
        try:
            self._reader.commit(record)
        except Unreachable as error:
            log.warning("cannot save the position, so records may come again: %s", error)

    def _result(self, record: Record) -> Record | None:
        """The record keyed by its Result's id; None if it is not a Result."""
        if is_group_record(record.payload):
            return record
        try:
            task_id = Result.decode(record.payload).task_id
        except FormatError as error:
            level = logging.DEBUG if self.done.skipped else logging.WARNING
            log.log(level, "skipped record %s, and will count others: %s", record.position, error)
            self.done = replace(self.done, skipped=self.done.skipped + 1)
            return None
        return Record(task_id, record.payload)
