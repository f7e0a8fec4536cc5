"""Sink: the seam between the outbox and the stream that clients read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

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


class Reader(Protocol):
    """Reads the stream once; not thread-safe."""

    def poll(self, limit: int, timeout_s: float) -> list[Record]:
        """The next records, waiting up to ``timeout_s`` for the first."""

    def commit(self, record: Record) -> None:
        """Mark this record, and all polled before it, as used.

        A sink may store that up to ``COMMIT_WITHIN_S`` later; ``close`` waits for it.
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
