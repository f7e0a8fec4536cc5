"""Ahead: notes of what was delivered to a worker, for its watcher."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentpipe.brokers.capabilities import NotesAhead
    from agentpipe.brokers.rabbitmq.messages import Message


class Ahead:
    """Those of one worker's deliveries on one connection, by their tags.

    Each stays until the task is settled or has gone back: that it has begun, the worker notes.

    Args:
        notes: Where they are kept; None for nowhere.
    """

    def __init__(self, notes: NotesAhead | None) -> None:
        self._notes = notes
        self._places: dict[int, int] = {}

    def add(self, tag: int, message: Message) -> None:
        """It was delivered."""
        if self._notes is not None and tag not in self._places:
            self._places[tag] = self._notes.lay(message.delivered)

    def drop(self, tags: Iterable[int]) -> None:
        """These are here no longer."""
        if self._notes is not None:
            for tag in tags:
                if (place := self._places.pop(tag, None)) is not None:
                    self._notes.let_go(place)

    def clear(self) -> None:
        """Nothing is here."""
        self.drop(list(self._places))
