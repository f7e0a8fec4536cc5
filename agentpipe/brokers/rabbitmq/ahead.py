"""Ahead: notes of what was delivered to a worker, for its watcher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.core.delivered import UNREAD, Delivered
from agentpipe.core.thread_marks import NO_RUN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentpipe.brokers.capabilities import NotesAhead
    from agentpipe.brokers.rabbitmq.messages import Message


def unread(queue: str) -> Delivered:
    """All deliveries of an agent that its worker has not read, as one delivery for a verdict."""
    return Delivered(queue, UNREAD)


class Ahead:
    """The notes of one worker's deliveries on one connection, by tag.

    A note stays until the task is settled or put back. The worker notes separately that a task has
    begun. The note of an agent stands for the deliveries that have no note yet: they lie unread in
    the connection, and have not begun.

    Args:
        notes: Where to store the notes; None to store none.
    """

    def __init__(self, notes: NotesAhead | None) -> None:
        self._notes = notes
        self._places: dict[int, int] = {}
        self._agents: dict[str, int] = {}

    def add(self, tag: int, message: Message) -> None:
        """Note a delivery."""
        if self._notes is not None and tag not in self._places:
            self._places[tag] = self._notes.lay(message.delivered)
            if self._places[tag] == NO_RUN:  # It can begin without a note.
                self.give_up(list(self._agents))

    def drop(self, tags: Iterable[int]) -> None:
        """Remove the notes of deliveries that are no longer here."""
        if self._notes is not None:
            for tag in tags:
                if (place := self._places.pop(tag, None)) is not None:
                    self._notes.let_go(place)

    def serve(self, queue: str) -> None:
        """Note that the deliveries of this agent are noted as they are read."""
        if self._notes is not None:
            self._agents[queue] = self._notes.lay(unread(queue))

    def give_up(self, queues: Iterable[str]) -> None:
        """Remove the notes of these agents."""
        if self._notes is not None:
            for place in [self._agents.pop(it) for it in queues if it in self._agents]:
                self._notes.let_go(place)

    def clear(self) -> None:
        """Remove all notes."""
        self.give_up(list(self._agents))
        self.drop(list(self._places))
