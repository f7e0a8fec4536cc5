"""LateReader: a reader that connects on first use, so creating it does not block an event loop."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from agentpipe.errors import ConfigError
from agentpipe.sinks.base import KnowsSubmissions, LosesRecords

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from agentpipe.sinks.base import Reader, Record, Sink, Start


def in_a_loop() -> bool:
    """Whether this thread runs an event loop, as in a coroutine or a notebook."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class LateReader:
    """A ``Reader`` of the sink that ``open_sink`` opens; it closes both.

    It also reads what was published between its creation and its first use, if the sink keeps it.
    """

    def __init__(self, open_sink: Callable[[], Sink], group: str | None, start: Start) -> None:
        self._open_sink, self._group = open_sink, group
        self._start, self._made_at = start, time.time()
        self._sink: Sink | None = None
        self._reader: Reader | None = None

    def open(self) -> Reader:
        """Connect, unless already connected.

        Raises:
            ConfigError: The sink's URL or the start is invalid.
            Unreachable: The server does not answer.
        """
        if self._reader is None:
            if self._sink is None:
                self._sink = self._open_sink()
            self._reader = self._followed(self._sink)
        return self._reader

    def _followed(self, sink: Sink) -> Reader:
        if self._start != "now":
            return sink.follow(self._group, self._start)
        try:
            return sink.follow(self._group, self._made_at)
        except ConfigError:  # The sink keeps nothing from the past.
            return sink.follow(self._group, "now")

    def poll(self, limit: int, timeout_s: float) -> list[Record]:
        """See ``Reader``."""
        return self.open().poll(limit, timeout_s)

    def commit(self, record: Record) -> None:
        """See ``Reader``."""
        self.open().commit(record)

    def recall(self) -> list[str]:
        """See ``Reader``."""
        return self.open().recall()

    def take(self, record: Record) -> bool:
        """See ``LosesRecords``."""
        reader = self.open()
        return reader.take(record) if isinstance(reader, LosesRecords) else True

    def submissions(self, task_id: str) -> Collection[str | None]:
        """See ``KnowsSubmissions``."""
        reader = self.open()
        return reader.submissions(task_id) if isinstance(reader, KnowsSubmissions) else _Any()

    def close(self) -> None:
        """See ``Reader``."""
        if self._reader is not None:
            self._reader.close()
        if self._sink is not None:
            self._sink.close()


class _Any(frozenset[str | None]):
    """Every submission."""

    def __contains__(self, _: object) -> bool:
        return True
