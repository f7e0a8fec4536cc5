"""Ahead: notes of what was delivered to a worker, for its watcher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.core.delivered import UNREAD, Delivered
from agentpipe.core.thread_marks import NO_RUN

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agentpipe.brokers.capabilities import NotesAhead
    from agentpipe.brokers.rabbitmq.messages import Message


def unread(queue: str) -> Delivered:
    """All deliveries of an agent that its worker has not read, as one delivery for a verdict."""
    return Delivered(queue, UNREAD)


class Ahead:
    """The notes of one worker's deliveries on one connection, by tag.

    A note stays until the task is settled or put back, also while the worker connects again. The
    worker notes separately that a task has begun. The note of an agent stands for the deliveries
    that have no note yet: they lie unread in the connection, and have not begun. So no agent is
    noted while one of its tasks is here without a note and can have begun.

    Args:
        notes: Where to store the notes; None to store none.
    """

    def __init__(self, notes: NotesAhead | None) -> None:
        self._notes = notes
        self._places: dict[int, int] = {}
        self._agents: dict[str, int] = {}
        # The agents of tasks for whose notes there was no room, by tag.
        self._unnoted: dict[int, str] = {}
        # From the last connection, until the tasks are delivered again.
        self._kept: dict[Delivered, int] = {}

    def inherit(self, earlier: Ahead, tasks: Mapping[int, Delivered]) -> None:
        """Keep the notes of these tasks, by their earlier tags; removes all others.

        ``earlier`` keeps them, too, in case that connection is lost before the worker uses it.
        """
        for tag in tasks.keys() & earlier._places.keys():
            if tasks[tag] not in earlier._kept:
                earlier._kept[tasks[tag]] = earlier._places.pop(tag)
        earlier.give_up(list(earlier._agents))
        earlier.drop(list(earlier._places))
        self._kept = earlier._kept

    def forget_kept(self) -> None:
        """Remove the notes of the last connection whose tasks did not come again."""
        while self._notes is not None and self._kept:
            _, place = self._kept.popitem()
            self._notes.let_go(place)

    def add(self, tag: int, message: Message) -> None:
        """Note a delivery."""
        if self._notes is None or tag in self._places:
            return
        delivered = message.delivered
        kept = self._kept.pop(delivered, None)
        self._places[tag] = self._notes.lay(delivered) if kept is None else kept
        if self._places[tag] == NO_RUN:  # It can begin without a note.
            self._unnoted[tag] = message.queue
            self.give_up(list(self._agents))

    def drop(self, tags: Iterable[int]) -> None:
        """Remove the notes of deliveries that are no longer here."""
        if self._notes is not None:
            for tag in tags:
                self._unnoted.pop(tag, None)
                if (place := self._places.pop(tag, None)) is not None:
                    self._notes.let_go(place)

    def serve(self, queue: str) -> None:
        """Note that the deliveries of this agent are noted as they are read."""
        if self._notes is None or queue in self._agents or queue in self._unnoted.values():
            return
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
        self.forget_kept()
