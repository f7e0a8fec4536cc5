"""Hands: what keys do to a fleet, one thing after the other in a thread of its own."""

from __future__ import annotations

import queue
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from agentpipe.errors import AgentpipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agentpipe.tui.state import Action, Letter, View


class Hands(Protocol):
    """Each says in a few words what it came to; what fails raises an ``AgentpipeError``."""

    def pause(self, targets: Sequence[str]) -> str:
        """Have nobody claim from these collections and agents."""

    def resume(self, targets: Sequence[str]) -> str:
        """Have them claimed from again."""

    def cancel(self, targets: Sequence[str]) -> str:
        """Answer their tasks that wait with ``cancelled``, and end those that run."""

    def replay(self, task_ids: Sequence[str]) -> str:
        """Send dead letters again, as new tasks."""

    def dead(self) -> Sequence[Letter]:
        """The dead letters, the newest first; perhaps not all of very many."""


class Doer(threading.Thread):
    """Carries actions out, and tells the view what came of each.

    Args:
        changed: Called in this thread when ``take`` has something.
    """

    def __init__(self, hands: Hands, changed: Callable[[], None]) -> None:
        super().__init__(name="agentpipe-top-do", daemon=True)
        self._hands, self._changed = hands, changed
        self._asked: queue.SimpleQueue[Action] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Callable[[View], View]] = queue.SimpleQueue()

    def begin(self, action: Action) -> None:
        """Do it soon."""
        self._asked.put(action)

    def take(self, view: View) -> View:
        """The view with all that has come of actions since the last call."""
        while not self._done.empty():
            view = self._done.get()(view)
        return view

    def run(self) -> None:
        """For as long as the process lives."""
        while True:
            for change in self._perform(self._asked.get()):
                self._done.put(change)
            self._changed()

    def _perform(self, action: Action) -> list[Callable[[View], View]]:
        try:
            if action.verb == "dead":
                return [_listed(self._hands.dead())]
            said = _told(f"{action.shown}: {self._act(action)}")
            return [said, _listed(self._hands.dead())] if action.verb == "replay" else [said]
        except AgentpipeError as error:
            return [_told(str(error))]

    def _act(self, action: Action) -> str:
        verbs = {
            "pause": self._hands.pause,
            "resume": self._hands.resume,
            "cancel": self._hands.cancel,
            "replay": self._hands.replay,
        }
        return verbs[action.verb](action.targets)


def _told(words: str) -> Callable[[View], View]:
    return lambda view: replace(view, notice=words)


def _listed(letters: Sequence[Letter]) -> Callable[[View], View]:
    def listed(view: View) -> View:
        chosen = max(0, min(view.letter, len(letters) - 1))
        return replace(view, letters=tuple(letters), letter=chosen)

    return listed
