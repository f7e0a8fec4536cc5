"""Letters: dead letters, and results that the sink refuses, on the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.brokers.dead_letter import moment_us_of
from agentpipe.brokers.redis.decoding import as_dead_letters, as_dead_page

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agentpipe.brokers.dead_letter import DeadFilter, DeadLetter, DeadPage
    from agentpipe.brokers.redis.script_runner import ScriptRunner

DEAD, UNDELIVERABLE = "dead", "undeliverable"
PAGE_BYTES = 8 * 1024 * 1024
READ_AT_ONCE = 500


class RedisLetters:
    """The letters of one kind; see ``KeepsDeadLetters``.

    Args:
        scripts: Runs the scripts.
        kind: ``DEAD`` or ``UNDELIVERABLE``; selects the keys.
        drop: Deletes the letters with these ids, idempotently; returns how many existed.
    """

    def __init__(
        self, scripts: ScriptRunner, kind: str, drop: Callable[[str, Sequence[str]], int]
    ) -> None:
        self._scripts, self._kind, self._drop = scripts, kind, drop

    def dead_letters(self, wanted: DeadFilter, after: str, limit: int) -> DeadPage:
        """Return a page of summaries, oldest first."""
        first, last = _moments(wanted)
        if after:
            first = max(first, moment_us_of(after) + 1)
        fields = (wanted.collection or "", wanted.outcome or "", wanted.folded_error, wanted.prefix)
        args = (self._kind, first, last, limit, *fields)
        place, *values = self._scripts.run("dead_letters", *args)
        return as_dead_page(place, values)

    def count_dead(self, wanted: DeadFilter) -> int | None:
        """Count the matches; None unless the filter uses only times."""
        if not wanted.asks_for_times_only:
            return None
        return int(self._scripts.run("count_dead", self._kind, *_moments(wanted)))

    def read_dead(self, task_ids: Sequence[str]) -> list[DeadLetter]:
        """Return the letters with these ids, with payloads and results."""
        left, found = list(dict.fromkeys(task_ids)), []
        while left:
            asked = left[:READ_AT_ONCE]
            seen, *values = self._scripts.run("read_dead", self._kind, PAGE_BYTES, *asked)
            found += as_dead_letters(values)
            left = left[seen:]
        return sorted(found, key=lambda letter: letter.died_at)

    def drop_dead(self, task_ids: Sequence[str]) -> int:
        """Delete letters; returns how many existed."""
        return self._drop(self._kind, task_ids)


def _moments(wanted: DeadFilter) -> tuple[int, str]:
    """Return the first and last ``died_at`` in microseconds, as a Redis score range."""
    first = 0 if wanted.since is None else max(0, round(wanted.since * 1e6))
    return first, "+inf" if wanted.until is None else f"({round(wanted.until * 1e6)}"
