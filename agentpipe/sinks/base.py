"""Sink: the interface between the outbox and the stream that clients read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from agentpipe.core.numbers import is_number
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

# A number is Unix seconds: start with the first record published at that time or later.
Start = Literal["beginning", "now"] | float
# A reader stores a commit within this time; if it cannot, it waits.
COMMIT_WITHIN_S = 0.05
# Databases and servers count it in microseconds, in 64 bits.
_BEYOND_ALL_CLOCKS_S = 2**43


def check_start(start: object) -> None:
    """Reject a place where no reader can begin; a misspelt one would skip all that is there.

    Raises:
        ConfigError: It is none of the places of ``Start``.
    """
    if is_number(start):  # Also of a subclass, such as NumPy's.
        is_valid = abs(start) < _BEYOND_ALL_CLOCKS_S
    else:
        is_valid = start in ("beginning", "now")
    if not is_valid:
        raise ConfigError(f"start: expected 'beginning', 'now' or Unix seconds, not {start!r:.40}")


def check_group(group: str | None) -> None:
    """Reject a group of readers whose name no sink can store; None reads without a group.

    Raises:
        ConfigError: The name is empty, or not UTF-8.
    """
    if group is None:
        return
    if not group:
        raise ConfigError("the group of a reader has an empty name: give it one, or leave it out")
    try:
        group.encode()
    except UnicodeEncodeError as bad:
        raise ConfigError(f"{group!a} is not UTF-8: only paths may have other bytes") from bad


@dataclass(frozen=True, slots=True)
class Record:
    """One encoded Result.

    Attributes:
        position: Position in the stream, in the sink's own terms; None before it is published.
        fault: Why the record cannot be read, if the sink knows; readers skip such records.
    """

    task_id: str
    payload: bytes
    position: Any = None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Query:
    """A search for results; all given values must match.

    Attributes:
        run: The run's name, which its task ids begin with; see ``core.run_names``.
        group: A ``group_id``.
        finished_from: Unix seconds, inclusive, as are the other lower bounds.
        finished_before: Unix seconds, exclusive, as are the other upper bounds.
        published_from: When the sink took the record; an outage of the sink delays this.
        after: Only records after this position in the stream. A sink can ignore it.
        last: About this many records from the end of the stream, at least. A sink can ignore it.
    """

    task_id: str | None = None
    run: str | None = None
    group: str | None = None
    collection: str | None = None
    agent: str | None = None
    outcome: str | None = None
    finished_from: float | None = None
    finished_before: float | None = None
    published_from: float | None = None
    published_before: float | None = None
    after: int | None = None
    last: int | None = None


class Reader(Protocol):
    """Reads the stream once; not thread-safe."""

    def poll(self, limit: int, timeout_s: float) -> list[Record]:
        """Return the next records; waits up to ``timeout_s`` for the first."""

    def commit(self, record: Record) -> None:
        """Mark this record, and all polled before it, as used.

        A sink may store the commit up to ``COMMIT_WITHIN_S`` later; ``close`` waits for it. Only
        the position counts: a record that was held for long has lost its payload.
        """

    def recall(self) -> list[str]:
        """Task ids of records shortly before this reader's first record.

        A new reader of a group has not seen these records, but repeats of them can arrive. Each id
        is returned once; call this after each poll. Empty if the sink cannot read back.
        """

    def close(self) -> None:
        """Stop reading; uncommitted records return to the group."""


class Sink(Protocol):
    """A stream of records. Every method may raise ``Unreachable``."""

    def publish(self, records: Sequence[Record]) -> None:
        """Publish records; returns once all are durable. After an error, any of them may be.

        Raises ``RecordsRefused`` if the sink rejects a record for a permanent reason, such as its
        size. All other errors count as an outage. Without records it only connects, which saves the
        first records that delay.
        """

    def follow(self, group: str | None, start: Start) -> Reader:
        """Open a reader at ``start``, or at the last commit of a known group.

        The readers of a group share the stream; each group sees all of it. Without a group no
        position is stored.
        """

    def close(self) -> None:
        """Release files and connections; close the readers first."""


@runtime_checkable
class ChecksUrl(Protocol):
    """Optional: a sink class that refuses a wrong URL before tasks run; each of ours does."""

    @classmethod
    def check(cls, url: str) -> None:
        """Check the URL without a server.

        Raises ``ConfigError`` if the URL or its file is wrong. What can pass, such as an outage, is
        no error.
        """


@runtime_checkable
class LosesRecords(Protocol):
    """Optional: a reader whose polled records can return to the group before they are used."""

    def take(self, record: Record) -> bool:
        """Begin to use a polled record; False if this reader has lost it."""


@runtime_checkable
class KnowsSubmissions(Protocol):
    """Optional: a reader that distinguishes the submissions of a recalled id.

    For other readers, every later Result of a recalled id counts as a repeat.
    """

    def submissions(self, task_id: str) -> Collection[str | None]:
        """The values of ``submission_of`` for the recalled Results of this id."""


@runtime_checkable
class Index(Protocol):
    """Optional: a sink that finds single records; the SQLite sink does."""

    def find(self, task_id: str) -> int | None:
        """The position of a task's Result; None if it is not in the stream."""


@runtime_checkable
class Searchable(Protocol):
    """Optional: a sink that is also an archive; the SQLite sink is.

    Its class may have ``archive(url)``, which opens the same archive for searches only.
    """

    def search(self, query: Query) -> Iterator[Record]:
        """The matching records in stream order; holds one page in memory at a time."""

    def close(self) -> None:
        """Close the sink."""


@runtime_checkable
class KnowsRuns(Protocol):
    """Optional: a searchable sink that lists the runs of its results; the SQLite sink does."""

    def runs(self) -> Sequence[str]:
        """Each run with a result, sorted by name."""


@runtime_checkable
class Keeper(Protocol):
    """Optional: a sink that can store a copy of another sink's stream; the SQLite sink can."""

    def add_new(self, records: Sequence[Record]) -> int:
        """Store the records of new submissions in one durable step; returns how many were added."""

    def reader_group(self) -> str:
        """The name of the group that reads for this sink only; stored in the sink."""

    def index(self) -> None:
        """Prepare for searches; optional, and safe to interrupt."""


@dataclass(frozen=True, slots=True)
class ArchiveSize:
    """The contents of an archive.

    Attributes:
        size_bytes: The size of its file.
        free_bytes: The part of the file that new records reuse, or that ``vacuum`` releases.
        unindexed: Records that a search has to read one by one.
        unread: Per group, the records that none of its readers has used.
    """

    results: int
    size_bytes: int
    free_bytes: int
    unindexed: int
    unread: Mapping[str, int]


@runtime_checkable
class Trimmable(Protocol):
    """Optional: a sink from which records can be removed; the SQLite sink supports it."""

    def matching(self, query: Query) -> Sequence[int]:
        """The positions of records that match a query, which must include facts of Results.

        They include the ends of groups that would have no Result left.
        """

    def unread(self, positions: Sequence[int]) -> Sequence[int]:
        """The positions that some group has not read yet."""

    def remove(self, positions: Sequence[int], *, unread: bool) -> tuple[int, int]:
        """Remove records in steps that let others write in between.

        Without ``unread`` it keeps what some group has not read at that moment. Returns how many it
        removed, and how many it kept.
        """

    def vacuum(self) -> None:
        """Return free space to the disk; blocks writers, but not readers."""

    def size(self) -> ArchiveSize:
        """Measure the archive."""
