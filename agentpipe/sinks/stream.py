"""Stream: reads a sink's Results, each task once, and commits each after its use."""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Self

from agentpipe.core.task import Result
from agentpipe.errors import FormatError, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from agentpipe.settings import Settings
    from agentpipe.sinks.base import Reader, Record, Sink, Start

# Repeats come from a crash between publishing and dropping, so they lie close together.
REMEMBERED_IDS = 200_000
BATCH = 100
POLL_S = 0.5
AWAY_PAUSE_S = 0.2

log = logging.getLogger(__name__)


class Stream:
    """Iterates over Results; a record is committed when the caller comes back for the next.

    A caller that leaves the loop early has not come back: its last record is read again by
    its group. Close it, or use it in a ``with``::

        with Stream.open(Settings(), start="beginning", timeout_s=5) as stream:
            for result in stream: ...

    A sink that goes away while it is read is waited for, as silence is.

    Attributes:
        skipped: Records so far that were no Results.
        repeated: Records so far whose task had been seen.
        keep: So many used records are held uncommitted.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        timeout_s: float | None = None,
        commit_every: int = 1,
        keep: float = 0,
        known: Iterable[str] = (),
        sink: Sink | None = None,
    ) -> None:
        """Read from ``reader``; it is closed with the stream, and so is ``sink`` if given.

        With ``commit_every`` so many used records are committed together, or fewer where no
        more are there: quicker, and a reader that is killed has as many repeated. The newest
        ``keep`` of them are not committed but held, all with ``math.inf``. The tasks of ``known``
        ids are passed over.
        """
        self._reader, self._timeout_s, self._sink = reader, timeout_s, sink
        self._commit_every = max(1, commit_every)
        self._held: deque[Record] = deque()
        self._seen: OrderedDict[str, None] = OrderedDict.fromkeys(known)
        self.keep = keep
        self._stopped = False
        self._away: Unreachable | None = None
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
        commit_every: int = 1,
        keep: float = 0,
        known: Iterable[str] = (),
    ) -> Self:
        """The stream of ``settings.sink``, from ``start`` or where ``group`` left off.

        Raises:
            ConfigError: The sink's URL is wrong.
            Unreachable: Nothing answers there.
        """
        from agentpipe.sinks import open_sink

        sink = open_sink(settings)
        reader = sink.follow(group, start)
        return cls(
            reader,
            timeout_s=timeout_s,
            commit_every=commit_every,
            keep=keep,
            known=known,
            sink=sink,
        )

    def close(self) -> None:
        """Give back what was read and not used."""
        self._settle()
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
            self._held.append(record)
            if self._stopped or len(self._held) - self.keep >= self._commit_every:
                self._settle()
            if self._stopped:
                return

    @property
    def held(self) -> list[str]:
        """The tasks of what was used and is not released, the oldest first."""
        return [record.task_id for record in self._held]

    def release(self, number: int) -> None:
        """Commit the oldest ``number`` of those."""
        released = [self._held.popleft() for _ in range(min(number, len(self._held)))]
        if released:
            try:
                self._reader.commit(released[-1])
            except Unreachable as error:  # They may come again, and are known here.
                log.warning("what was read could not be committed: %s", error)

    def _settle(self) -> None:
        """Commit all that is not to be kept."""
        excess = len(self._held) - self.keep
        if excess > 0:
            self.release(int(excess))

    def _records(self) -> Iterator[Record]:
        timeout_s = math.inf if self._timeout_s is None else self._timeout_s
        quiet_until = time.monotonic() + timeout_s
        while True:
            left_s = max(0.0, quiet_until - time.monotonic())
            records = self._poll(min(POLL_S, left_s))
            yield from records
            if records:
                quiet_until = time.monotonic() + timeout_s
                continue
            self._settle()
            if time.monotonic() >= quiet_until:
                if self._away is not None:
                    raise self._away
                return

    def _poll(self, timeout_s: float) -> list[Record]:
        try:
            records = self._reader.poll(BATCH, timeout_s)
        except Unreachable as error:
            if self._away is None:
                log.warning("the stream is waited for: %s", error)
            self._away = error
            time.sleep(min(timeout_s, AWAY_PAUSE_S))
            return []
        if self._away is not None:
            log.warning("the stream is there again")
            self._away = None
        for task_id in self._reader.recall():
            self._remember(task_id)
        return records

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
