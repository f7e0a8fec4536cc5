"""Ahead: notes of what was delivered to a worker, for its watcher."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentpipe.brokers.capabilities import NotesAhead
    from agentpipe.brokers.rabbitmq.messages import Message


class Ahead:
    """The notes of one worker's deliveries on one connection, by tag.

    A note stays until the task is settled or put back. The worker notes separately that a task has
    begun.

    Args:
        notes: Where to store the notes; None to store none.
    """

    def __init__(self, notes: NotesAhead | None) -> None:
        self._notes = notes
        self._places: dict[int, int] = {}

    def add(self, tag: int, message: Message) -> None:
        """Note a delivery."""
        if self._notes is not None and tag not in self._places:
            self._places[tag] = self._notes.lay(message.delivered)

    def drop(self, tags: Iterable[int]) -> None:
        """Remove the notes of deliveries that are no longer here."""
        if self._notes is not None:
            for tag in tags:
                if (place := self._places.pop(tag, None)) is not None:
                    self._notes.let_go(place)

    def clear(self) -> None:
        """Remove all notes."""
        self.drop(list(self._places))
