"""Sink: the seam between the outbox and the stream that clients read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

# A number is Unix seconds: the first record that was published then or later.
Start = Literal["beginning", "now"] | float


@dataclass(frozen=True, slots=True)
class Record:
    """One encoded Result.

    Attributes:
        position: Where it stands in the stream, in the sink's own terms; None before it does.
    """

    task_id: str
    payload: bytes
    position: Any = None


class Reader(Protocol):
    """One reader's way through the stream. Not for use by two threads at once."""

    def poll(self, limit: int, timeout_s: float) -> list[Record]:
        """The next records, waiting up to ``timeout_s`` for the first."""

    def commit(self, record: Record) -> None:
        """This record, and all polled before it, have been used."""

    def recall(self) -> list[str]:
        """Ids of tasks whose records lie shortly before what this reader has been given.

        A group's new reader was not there when they were polled, and a repeat of theirs may
        come. Each is told once; ask after each poll. Empty where nothing can be read back.
        """

    def close(self) -> None:
        """Give back what was polled and not committed."""


class Sink(Protocol):
    """A stream of records. Everything may raise ``Unreachable``."""

    def publish(self, records: Sequence[Record]) -> None:
        """Return once all are durable in the stream; after an error any of them may be.

        Without records it connects, so that the first do not wait for that.
        """

    def follow(self, group: str | None, start: Start) -> Reader:
        """A reader that begins at ``start``, or where its group left off.

        Readers of one group share the stream, each group sees all of it. Without a group
        nothing is remembered.
        """

    def close(self) -> None:
        """Release files and connections; readers are closed before."""


@runtime_checkable
class Index(Protocol):
    """What a sink that can find one record has beside it; of ours, the embedded one."""

    def find(self, task_id: str) -> int | None:
        """At which position of the stream a task's Result stands."""
