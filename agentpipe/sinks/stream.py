"""Stream: reads a sink's Results, each submission once, and commits each after its use."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from dataclasses import replace
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Literal, Self

from agentpipe.core.generators import going_on
from agentpipe.core.groups import GroupEnd, is_group_record
from agentpipe.core.redaction import without_password
from agentpipe.core.result import Result
from agentpipe.errors import FormatError, Unreachable
from agentpipe.sinks.async_results import AsyncResults
from agentpipe.sinks.base import LosesRecords, check_group, check_start
from agentpipe.sinks.late_reader import LateReader, in_a_loop
from agentpipe.sinks.polling import Polling
from agentpipe.sinks.portion import Portion
from agentpipe.sinks.said_after import SAID_AFTER_S, said_after
from agentpipe.sinks.seen import Seen
from agentpipe.sinks.side_thread import SideThread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator

    from agentpipe.settings import Settings
    from agentpipe.sinks.base import Reader, Record, Sink, Start

POLL_S = 0.5

log = logging.getLogger(__name__)


class Nothing(Enum):
    """No record has arrived for a moment."""

    NEW = "nothing new"


Entry = Result | GroupEnd | Literal[Nothing.NEW] | None


class Stream:
    """Iterates over Results; a record is committed when the caller asks for the next one.

    If the caller leaves the loop early, its group reads the last record again. A later loop over
    the same stream continues after it.

    Close the stream, or use it in a ``with``::

        with Stream.open(Settings(), start="beginning", timeout_s=5) as stream:
            for result in stream: ...

    In a coroutine, the event loop never blocks on the sink::

        async with Stream.open(settings, start="beginning") as stream:
            async for result in stream: ...

    A cancelled coroutine leaves its last record uncommitted, like a loop that is left early.

    The stream waits for a sink that becomes unreachable, as for a silent one.

    Attributes:
        skipped: Number of records that were not Results.
        repeated: Number of records of submissions already seen.
        keep: Number of used records to hold uncommitted.
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
        shown: str = "",
    ) -> None:
        """Read from ``reader``; the stream closes it, and ``sink`` if given.

        Args:
            reader: A reader that only this stream uses.
            timeout_s: End after this time without a record; None waits forever.
            commit_every: Number of used records per commit, fewer when no more arrive. A larger
                number is faster, but a kill repeats up to this many records.
            keep: Number of the newest used records to hold uncommitted; ``math.inf`` holds all.
            known: Ids of tasks whose next Result to skip.
            sink: The reader's sink, to close with it.
            shown: What the reader reads, for messages. A stream with a name logs once that it waits
                forever.
        """
        self._reader, self._timeout_s, self._sink = reader, timeout_s, sink
        self._commit_every = max(1, commit_every)
        self._held: deque[Record] = deque()
        self._loser = reader if isinstance(reader, LosesRecords) else None
        self._seen = Seen(reader, known)
        self._portion = Portion()
        self.keep = keep
        self._stopped = False
        self._closing = False
        self._thread: SideThread | None = None
        self._waits = _Waits(shown if timeout_s is None else "")
        self._polling = Polling(reader)
        self._entries: Generator[Entry, None, None] | None = None
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
        patient: bool = False,
    ) -> Self:
        """Open a stream on ``settings.sink``, from ``start`` or from the group's last commit.

        If this thread runs an event loop, the stream connects only at ``async with``, ``with`` or
        the first result. A stream without a timeout logs once that it waits, unless ``patient``.

        Raises:
            ConfigError: The sink's URL, the group's name or the start is invalid.
            Unreachable: The server does not answer.
        """
        from agentpipe.sinks import open_sink

        check_group(group)
        check_start(start)
        shown, sink = without_password(settings.sink), None
        reader: Reader = LateReader(partial(open_sink, settings), group, start)
        if not in_a_loop():
            with said_after(f"connecting to {shown} takes long"):
                sink = open_sink(settings)
                reader = sink.follow(group, start)
        return cls(
            reader,
            timeout_s=timeout_s,
            commit_every=commit_every,
            keep=keep,
            known=known,
            sink=sink,
            shown="" if patient else shown,
        )

    def _connect(self) -> None:
        if isinstance(self._reader, LateReader) and not self._closing:
            with said_after(f"connecting to {self._waits.shown or 'the stream'} takes long"):
                self._reader.open()

    def close(self) -> None:
        """Commit used records and close; the group reads the others again."""
        self._closing = True
        if self._thread is None:
            self._close()
        else:
            self._thread.call(self._close).result()
            self._thread.end()

    def _close(self) -> None:
        self._settle()
        self._reader.close()
        if self._sink is not None:
            self._sink.close()

    def __enter__(self) -> Self:
        self._connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await self._aside(self._connect)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        closing = self._aside(self._close)
        self._side_thread.end()
        await closing

    def __aiter__(self) -> AsyncIterator[Result]:
        """Iterate over Results in a coroutine, with the same commits as plain iteration."""
        return AsyncResults(iter(self), self._side_thread)

    @property
    def _side_thread(self) -> SideThread:
        if self._thread is None:
            self._thread = SideThread("stream")
        return self._thread

    def _aside(self, function: Callable[[], None]) -> Awaitable[None]:
        import asyncio  # Most readers do not need it.

        return asyncio.shield(asyncio.wrap_future(self._side_thread.call(function)))

    def stop(self) -> None:
        """End the loop after the current record, which counts as used."""
        self._stopped = True

    def __iter__(self) -> Iterator[Result]:
        """Iterate until ``stop``, until ``timeout_s`` passes without a record, or forever."""
        return (entry for entry in self.entries() if isinstance(entry, Result))

    def entries(self) -> Iterator[Entry]:
        """Every record read: Results, ends of groups, and None for anything else.

        A record is held from the moment the next one is requested. While none arrives, this yields
        ``Nothing.NEW`` periodically, so that a caller can do other work.
        """
        self._entries = going_on(self._entries, self._read)
        return self._entries

    def _read(self) -> Generator[Entry, None, None]:
        self._connect()
        for record in self._records():
            if record is None:
                yield Nothing.NEW
                continue
            yield self._decoded(record)
            # A commit needs no payload.
            self._held.append(replace(record, payload=b"") if self.keep else record)
            if self._stopped or len(self._held) - self.keep >= self._commit_every:
                self._settle()
            if self._stopped:
                return

    @property
    def held(self) -> list[str]:
        """Task ids of used, uncommitted records, oldest first."""
        return [record.task_id for record in self._held]

    def is_recalled(self, task_id: str) -> bool:
        """Whether an earlier reader of the group has used a Result of this task, if known."""
        return self._seen.is_recalled(task_id)

    def release(self, number: int) -> None:
        """Commit the oldest ``number`` held records."""
        released = [self._held.popleft() for _ in range(min(number, len(self._held)))]
        if released:
            try:
                self._reader.commit(released[-1])
            except Unreachable as error:  # If the records arrive again, ``_seen`` recognizes them.
                log.warning("cannot commit what was read: %s", error)

    def _settle(self) -> None:
        """Commit all but the newest ``keep``."""
        excess = len(self._held) - self.keep
        if excess > 0:
            self.release(int(excess))

    def _records(self) -> Iterator[Record | None]:
        timeout_s = math.inf if self._timeout_s is None else self._timeout_s
        quiet_until = time.monotonic() + timeout_s
        while not self._closing:
            left_s = max(0.0, quiet_until - time.monotonic())
            records = self._poll(min(POLL_S, left_s))
            self._waits.note(records)
            if records:
                yield from self._taken(records)
                quiet_until = time.monotonic() + timeout_s
                continue
            self._settle()
            if time.monotonic() >= quiet_until:
                if self._polling.outage is not None:
                    raise self._polling.outage
                return
            yield None

    def _taken(self, records: list[Record]) -> Iterator[Record]:
        """Yield the records that still belong to the reader when their turn comes."""
        begun = time.monotonic()
        for record in records:
            if self._loser is None or self._loser.take(record):
                yield record
        self._portion.used(len(records), time.monotonic() - begun)

    def _poll(self, timeout_s: float) -> list[Record]:
        records = self._polling.poll(self._portion.limit, timeout_s)
        if self._polling.outage is None:
            self._seen.recall(self._reader.recall())
        return records

    def _skip(self, record: Record, error: FormatError) -> None:
        """Warn only once: other programs can write to the stream without end."""
        self.skipped += 1
        text = "skipped record %s of the stream, and will count others: %s"
        log.log(
            logging.DEBUG if self.skipped > 1 else logging.WARNING, text, record.position, error
        )

    def _decoded(self, record: Record) -> Result | GroupEnd | None:
        try:
            if is_group_record(record.payload):
                return GroupEnd.decode(record.payload)
            result = _result_of(record)
        except FormatError as error:
            self._skip(record, error)
            return None
        if self._seen.is_repeat(result):
            self.repeated += 1
            return None
        return result


def _result_of(record: Record) -> Result:
    if record.fault:
        raise FormatError(record.fault)
    return Result.decode(record.payload)


class _Waits:
    """Logs once what a silent stream waits for: it looks like one that hangs."""

    def __init__(self, shown: str) -> None:
        self.shown = shown
        self._since = time.monotonic()

    def note(self, records: list[Record]) -> None:
        if records:
            self.shown = ""
        elif self.shown and time.monotonic() - self._since > SAID_AFTER_S:
            log.warning(
                'no result for %g s: waiting for more from %s. start="beginning" reads what is '
                "there already, timeout_s=10 ends the wait",
                SAID_AFTER_S,
                self.shown,
            )
            self.shown = ""
