"""Collector: writes a stream into an archive, each submission once.

It reads as a group. The group's position moves only after the archive's transaction, so that a
kill in between repeats records; what repeats is in the archive already, and is left out.
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

# One transaction of the archive, which waits for the disk once.
BATCH, BATCH_BYTES = 4_000, 16 * 1024**2
# The stream goes on meanwhile: a batch is written when it is this old, however small.
BATCH_S = 0.5
POLL, POLL_S = 500, 0.2

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collector has done so far.

    Attributes:
        collected: Results that are new in the archive.
        repeated: Those that it had.
        skipped: Records that are not Results.
    """

    collected: int = 0
    repeated: int = 0
    skipped: int = 0


class Target(Protocol):
    """Where a stream goes: an archive, or a collector of traces."""

    def add_new(self, records: Sequence[Record]) -> int:
        """Take those that are new, each once, and return their number once they are safe."""


class Collector:
    """Reads one stream into one archive, or whatever else takes its records."""

    def __init__(self, reader: Reader, archive: Target) -> None:
        """Its caller closes both."""
        self._reader, self._archive = reader, archive
        self._stopped = False
        self._polling = Polling(reader)
        self.done = Collected()

    def stop(self) -> None:
        """End after the present batch; from a signal handler."""
        self._stopped = True

    def run(self, timeout_s: float | None, progress: Callable[[int], None]) -> Collected:
        """Until ``stop``, or until ``timeout_s`` passes without a record.

        Args:
            timeout_s: None waits for ever.
            progress: Called with the number of new results.

        Raises:
            Unreachable: The archive, or until the end the stream.
        """
        quiet_s = math.inf if timeout_s is None else timeout_s
        quiet_since = None
        while not self._stopped:
            batch = self._batch()  # The first may wait for a killed reader of the group.
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
        """The next records, as many as come at once."""
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
        # Only now: what a kill repeats is known to the archive, what it loses was never committed.
        self._commit(batch[-1])
        return new

    def _commit(self, record: Record) -> None:
        try:
            self._reader.commit(record)
        except Unreachable as error:
            log.warning("cannot save the position, so records may come again: %s", error)

    def _result(self, record: Record) -> Record | None:
        """The record by the id of its Result; None for what is none."""
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
