"""Waits for the results of given tasks: in the stream, or among those that the sink refuses."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from agentpipe.sinks.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from agentpipe.brokers.dead_letter import DeadLetter
    from agentpipe.core.result import Result
    from agentpipe.sinks.base import Reader, Sink

# How often to check whether the time is over.
POLL_S = 1.0


class ResultWaiter:
    """Open it before sending the tasks, so that no result is missed.

    Attributes:
        missing: Ids of tasks without a result so far.
        refused: Results that the sink refuses; they do not count as missing.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.refused: list[DeadLetter] = []
        self._reader: Reader = sink.follow(None, "now")
        self.missing: set[str] = set()

    def close(self) -> None:
        """Close the reader, not the sink."""
        self._reader.close()

    def rewind(self) -> None:
        """Read from the beginning, for tasks that may already be done.

        Raises:
            ConfigError: The sink keeps no past results; reading continues where it was.
        """
        earlier = self._sink.follow(None, "beginning")
        self._reader.close()
        self._reader = earlier

    def results(
        self,
        task_ids: Iterable[str],
        timeout_s: float | None,
        refused: Callable[[Collection[str]], Iterable[DeadLetter]],
    ) -> Iterator[Result]:
        """Yield each result as it arrives, until all are there or the time is over.

        ``refused`` finds those of the given tasks whose results the sink refuses.
        """
        self.missing = set(task_ids)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while self.missing:
            left_s = POLL_S if deadline is None else min(POLL_S, deadline - time.monotonic())
            if left_s <= 0:
                return
            yield from self._poll(left_s, deadline)
            self._note(refused(self.missing))

    def _note(self, refused: Iterable[DeadLetter]) -> None:
        for letter in refused:
            self.missing.discard(letter.task_id)
            self.refused.append(letter)

    def _poll(self, wait_s: float, deadline: float | None) -> Iterator[Result]:
        for result in Stream(self._reader, timeout_s=wait_s):
            if result.task_id in self.missing:
                self.missing.discard(result.task_id)
                yield result
            if not self.missing or (deadline is not None and time.monotonic() > deadline):
                return
