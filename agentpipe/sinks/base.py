"""Sink: the seam between the outbox and the stream that clients read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

# A number is Unix seconds: start with the first record published then or later.
Start = Literal["beginning", "now"] | float
# A reader stores within this time what is to be committed, or waits for it.
COMMIT_WITHIN_S = 0.05


@dataclass(frozen=True, slots=True)
class Record:
    """One encoded Result.

    Attributes:
        position: In the stream, in the sink's own terms; None before it is published.
        fault: Why it cannot be read, where the sink knows; it is skipped then.
    """

    task_id: str
    payload: bytes
    position: Any = None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Query:
    """Which results are wanted: those with all the values that are given.

    Attributes:
        run: Its name; its tasks' ids begin with it, see ``core.run_names``.
        group: A ``group_id``.
        finished_from: Unix seconds, as all bounds: at this time or later.
        finished_before: Earlier than this time.
        published_from: When the sink took the record, which an outage of the sink delays.
        after: A position in the stream: only records behind it. A sink may disregard it.
        last: Only so many, the last of the stream, or some more. A sink may disregard it.
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
        """The next records, waiting up to ``timeout_s`` for the first."""

    def commit(self, record: Record) -> None:
        """Mark this record, and all polled before it, as used.

        A sink may store that up to ``COMMIT_WITHIN_S`` later; ``close`` waits for it. What
        counts is the position: of a record that was held for long, the payload is gone.
        """

    def recall(self) -> list[str]:
        """Task ids of records shortly before the first one of this reader.

        A new reader of a group has not seen them, and repeats of them may come. Each id is
        returned once; call it after each poll. Empty if the sink cannot read back.
        """

    def close(self) -> None:
        """Return uncommitted records to the group."""


class Sink(Protocol):
    """A stream of records. Every method may raise ``Unreachable``."""

    def publish(self, records: Sequence[Record]) -> None:
        """Return once all are durable; after an error, any of them may be.

        Raises ``RecordsRefused`` where the sink refuses a record for what it is, such as its size,
        and will refuse it again. All other errors are taken for an outage.

        Without records it only connects, so that the first ones do not wait for that.
        """

    def follow(self, group: str | None, start: Start) -> Reader:
        """A reader from ``start``, or from the last commit of a known group.

        Readers of one group share the stream; each group sees all of it. Without a group no
        position is stored.
        """

    def close(self) -> None:
        """Release files and connections; close the readers first."""


@runtime_checkable
class LosesRecords(Protocol):
    """Optional: a reader from which polled records may go back to the group before their use."""

    def take(self, record: Record) -> bool:
        """Begin to use a polled record; False if it is no longer this reader's."""


@runtime_checkable
class KnowsSubmissions(Protocol):
    """Optional: a reader that tells the submissions of a recalled id apart.

    Of one that cannot, every later Result of a recalled id is a repeat.
    """

    def submissions(self, task_id: str) -> Collection[str | None]:
        """What ``submission_of`` says of the recalled Results of this id."""


@runtime_checkable
class Index(Protocol):
    """Optional: a sink that finds single records; of ours, the embedded one."""

    def find(self, task_id: str) -> int | None:
        """The position of a task's Result; None if it is not in the stream."""


@runtime_checkable
class Searchable(Protocol):
    """Optional: a sink that is an archive, too; of ours, the embedded one.

    Its class may have ``archive(url)``, which opens the same for searches alone.
    """

    def search(self, query: Query) -> Iterator[Record]:
        """The records that it finds, in the order of the stream, a page in memory at a time."""

    def close(self) -> None:
        """As of a ``Sink``."""


@runtime_checkable
class KnowsRuns(Protocol):
    """Optional: a searchable sink that names the runs of its results; of ours, the embedded one."""

    def runs(self) -> Sequence[str]:
        """Each run with a result, in the order of their names."""


@runtime_checkable
class Keeper(Protocol):
    """Optional: a sink that can keep another one's stream; of ours, the embedded one."""

    def add_new(self, records: Sequence[Record]) -> int:
        """Keep, in one durable step, those of submissions without a Result here; their number."""

    def reader_group(self) -> str:
        """The name of the group that reads for this sink alone; stored with it."""

    def index(self) -> None:
        """Prepare for searches; may be left out or interrupted."""


@dataclass(frozen=True, slots=True)
class ArchiveSize:
    """What an archive holds.

    Attributes:
        size_bytes: Of its file.
        free_bytes: Of these, what its next records use, or ``vacuum`` gives back.
        unindexed: Records that a search would read one by one.
        unread: By group, the records that none of its readers has used.
    """

    results: int
    size_bytes: int
    free_bytes: int
    unindexed: int
    unread: Mapping[str, int]


@runtime_checkable
class Trimmable(Protocol):
    """Optional: a sink from which records can be removed; of ours, the embedded one."""

    def matching(self, query: Query) -> Sequence[int]:
        """Positions of what a query finds, which asks for facts of Results."""

    def unread(self, positions: Sequence[int]) -> Sequence[int]:
        """Those of which a group still has to read the record."""

    def remove(self, positions: Sequence[int]) -> int:
        """Remove these records, in steps between which others write; the number removed."""

    def vacuum(self) -> None:
        """Give free space back to the disk; writers wait meanwhile, readers do not."""

    def size(self) -> ArchiveSize:
        """What is there."""
