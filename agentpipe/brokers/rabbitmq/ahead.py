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
    noted while one of its tasks is here without a note and can have begun. Tasks come first: an
    agent gives up its note for one, and is noted again once there is room.

    Args:
        notes: Where to store the notes; None to store none.
    """

    def __init__(self, notes: NotesAhead | None) -> None:
        self._notes, self._is_over = notes, False
        self._places: dict[int, int] = {}
        self._agents: dict[str, int] = {}
        # Agents that are to be noted once there is room.
        self._waiting: dict[str, None] = {}
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
        earlier.give_up([*earlier._agents, *earlier._waiting])
        earlier.drop(list(earlier._places))
        earlier._is_over = True  # What still happens on that connection is not about a delivery.
        self._kept = earlier._kept

    def forget_kept(self) -> None:
        """Remove the notes of the last connection whose tasks did not come again."""
        while self._notes is not None and self._kept:
            _, place = self._kept.popitem()
            self._notes.let_go(place)

    def add(self, tag: int, message: Message) -> None:
        """Note a delivery."""
        if self._notes is None or self._is_over or tag in self._places:
            return
        delivered = message.delivered
        kept = self._kept.pop(delivered, None)
        self._places[tag] = self._place(message.queue, delivered) if kept is None else kept
        if self._places[tag] == NO_RUN:  # It can begin without a note.
            self._unnoted[tag] = message.queue
            self._postpone(message.queue)

    def _place(self, queue: str, delivered: Delivered) -> int:
        """Note a delivery, in place of an agent if there is no room."""
        assert self._notes is not None
        place = self._notes.lay(delivered)
        if place == NO_RUN and self._agents:
            self._postpone(queue if queue in self._agents else next(iter(self._agents)))
            place = self._notes.lay(delivered)
        return place

    def _postpone(self, queue: str) -> None:
        """Remove the note of this agent, until there is room."""
        if queue in self._agents:
            self.give_up([queue])
            self._waiting[queue] = None

    def drop(self, tags: Iterable[int]) -> None:
        """Remove the notes of deliveries that are no longer here."""
        if self._notes is not None:
            for tag in tags:
                self._unnoted.pop(tag, None)
                if (place := self._places.pop(tag, None)) is not None:
                    self._notes.let_go(place)
            if not self._unnoted:
                self._note_waiting()

    def serve(self, queue: str) -> None:
        """Note that the deliveries of this agent are noted as they are read."""
        if self._notes is None or self._is_over or queue in self._agents:
            return
        self._waiting[queue] = None
        if queue not in self._unnoted.values():
            self._note(queue)

    def _note_waiting(self) -> None:
        """Note agents while there is room."""
        while self._waiting and self._note(next(iter(self._waiting))):
            pass

    def _note(self, queue: str) -> bool:
        """Note an agent that waits; returns whether there was room."""
        assert self._notes is not None
        if (place := self._notes.lay(unread(queue))) == NO_RUN:
            return False
        del self._waiting[queue]
        self._agents[queue] = place
        return True

    def give_up(self, queues: Iterable[str]) -> None:
        """Remove the notes of these agents."""
        if self._notes is None:
            return
        for queue in queues:
            self._waiting.pop(queue, None)
            if (place := self._agents.pop(queue, None)) is not None:
                self._notes.let_go(place)

    def clear(self) -> None:
        """Remove all notes."""
        self.give_up([*self._agents, *self._waiting])
        self.drop(list(self._places))
        self.forget_kept()
