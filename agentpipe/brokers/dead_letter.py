"""Dead letters: tasks that agentpipe gave up on, filters over them, and cursors between pages."""

from __future__ import annotations

from dataclasses import dataclass

from agentpipe.core.run_names import is_of_run, prefix_of
from agentpipe.errors import ConfigError

_MAX_DIGITS = 18  # 64 bits hold them.


@dataclass(frozen=True, slots=True)
class DeadSummary:
    """A dead letter without its payload and result.

    Attributes:
        died_at: Unix seconds; the same on every read.
    """

    task_id: str
    queue: str
    collection: str | None
    outcome: str
    reason: str
    died_at: float


@dataclass(frozen=True, slots=True)
class DeadLetter(DeadSummary):
    """A task that agentpipe gave up on, with its last payload and its Result."""

    payload: bytes
    result: bytes

    @property
    def summary(self) -> DeadSummary:
        """The letter without its payload and result."""
        return DeadSummary(
            self.task_id, self.queue, self.collection, self.outcome, self.reason, self.died_at
        )


@dataclass(frozen=True, slots=True)
class DeadFilter:
    """Selects the dead letters that match every field that is set.

    Attributes:
        error: Substring of the reason; ASCII case is ignored.
        since: Earliest ``died_at`` in Unix seconds, inclusive.
        until: Latest ``died_at`` in Unix seconds, exclusive.
        run: Only tasks of this run: their ids begin with its name.
    """

    collection: str | None = None
    outcome: str | None = None
    error: str = ""
    since: float | None = None
    until: float | None = None
    run: str | None = None

    @property
    def prefix(self) -> str:
        """The prefix of matching ids; empty if any id matches."""
        return "" if self.run is None else prefix_of(self.run)

    @property
    def folded_error(self) -> str:
        """``error`` with ASCII letters in lower case, as all stores compare it."""
        return folded(self.error)

    @property
    def asks_for_times_only(self) -> bool:
        """Whether no field besides the times is set: an index by time is enough."""
        others = (self.collection, self.outcome, self.run)
        return not self.error and all(it is None for it in others)

    def fits(self, letter: DeadSummary) -> bool:
        """Whether a letter matches; for stores that filter in Python."""
        return (
            self.collection in (None, letter.collection)
            and self.outcome in (None, letter.outcome)
            and is_of_run(letter.task_id, self.run)
            and self.folded_error in folded(letter.reason)
            and (self.since is None or letter.died_at >= self.since)
            and (self.until is None or letter.died_at < self.until)
        )


@dataclass(frozen=True, slots=True)
class DeadPage:
    """A page of dead letters, oldest first.

    Attributes:
        after: Cursor for the next page; None at the end. Any page can be short or empty.
    """

    letters: tuple[DeadSummary, ...]
    after: str | None


def moment_us_of(cursor: str) -> int:
    """Return the microsecond of death that a cursor names; 0 for an empty one.

    For stores where a cursor is the microsecond in which the last letter of a page died.

    Raises:
        ConfigError: It is not such a cursor.
    """
    if cursor and not (cursor.isdecimal() and len(cursor) <= _MAX_DIGITS):
        raise foreign_cursor(cursor)
    return int(cursor or 0)


def foreign_cursor(cursor: str) -> ConfigError:
    """Return the error for a cursor that this kind of store did not make."""
    return ConfigError(f"{cursor[:40]!r} does not come from a page of this store's dead letters")


def folded(text: str) -> str:
    """Return ``text`` with its ASCII letters in lower case."""
    return text.encode(errors="replace").lower().decode()
