"""Dead letters: tasks that were given up, and filters over them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DeadSummary:
    """A task that was given up, without what may be large.

    Attributes:
        died_at: Unix seconds, the same at each look.
    """

    task_id: str
    queue: str
    collection: str | None
    outcome: str
    reason: str
    died_at: float


@dataclass(frozen=True, slots=True)
class DeadLetter(DeadSummary):
    """A task that was given up, as it was sent, with the Result that said so."""

    payload: bytes
    result: bytes

    @property
    def summary(self) -> DeadSummary:
        """The letter without them."""
        return DeadSummary(
            self.task_id, self.queue, self.collection, self.outcome, self.reason, self.died_at
        )


@dataclass(frozen=True, slots=True)
class DeadFilter:
    """Which dead letters are meant: those that fit all that is set.

    Attributes:
        error: A part of the reason; the case of ASCII letters does not count.
        since: Unix seconds: those that died then or later.
        until: Unix seconds: those that died earlier.
    """

    collection: str | None = None
    outcome: str | None = None
    error: str = ""
    since: float | None = None
    until: float | None = None

    @property
    def folded_error(self) -> str:
        """``error`` in small letters, as far as every store knows the case of letters."""
        return folded(self.error)

    @property
    def asks_for_times_only(self) -> bool:
        """Whether an order by time is all that is needed to tell what fits."""
        return self.collection is None and self.outcome is None and not self.error

    def fits(self, letter: DeadSummary) -> bool:
        """Whether a letter is one of them; for stores that look at each."""
        return (
            self.collection in (None, letter.collection)
            and self.outcome in (None, letter.outcome)
            and self.folded_error in folded(letter.reason)
            and (self.since is None or letter.died_at >= self.since)
            and (self.until is None or letter.died_at < self.until)
        )


@dataclass(frozen=True, slots=True)
class DeadPage:
    """Some dead letters, oldest first.

    Attributes:
        after: Where to go on; None at the end. A page may be short, or empty, before that.
    """

    letters: tuple[DeadSummary, ...]
    after: str | None


def folded(text: str) -> str:
    """``text`` in small letters, but for those outside ASCII."""
    return text.encode(errors="replace").lower().decode()
