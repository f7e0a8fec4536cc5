"""Runs the commands of ``top`` one after another, in a thread of its own."""

from __future__ import annotations

import queue
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from agentpipe.errors import AgentpipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agentpipe.tui.state import Command, DeadRow, ScreenState

    Change = Callable[[ScreenState], ScreenState]


class Actions(Protocol):
    """What keys can do to a fleet. Each method but ``dead`` returns a short message.

    Failures raise ``AgentpipeError``.
    """

    def pause(self, targets: Sequence[str]) -> str:
        """Stop claims from these collections and agents."""

    def resume(self, targets: Sequence[str]) -> str:
        """Allow claims again."""

    def cancel(self, targets: Sequence[str]) -> str:
        """Answer waiting tasks with ``cancelled`` and stop running ones."""

    def replay(self, task_ids: Sequence[str]) -> str:
        """Send dead letters again, as new tasks."""

    def dead(self) -> Sequence[DeadRow]:
        """The newest dead letters, newest first."""


class ActionThread(threading.Thread):
    """Runs commands, and hands their results to the screen.

    Args:
        on_change: Called in this thread when ``apply_results`` has something to apply.
    """

    def __init__(self, actions: Actions, on_change: Callable[[], None]) -> None:
        super().__init__(name="agentpipe-top-actions", daemon=True)
        self._actions, self._on_change = actions, on_change
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Change] = queue.SimpleQueue()

    def submit(self, command: Command) -> None:
        """Run it after those submitted before."""
        self._commands.put(command)

    def apply_results(self, state: ScreenState) -> ScreenState:
        """The state after everything that has finished since the last call."""
        while not self._results.empty():
            state = self._results.get()(state)
        return state

    def run(self) -> None:
        """Until the process exits."""
        while True:
            for change in self._perform(self._commands.get()):
                self._results.put(change)
            self._on_change()

    def _perform(self, command: Command) -> list[Change]:
        try:
            if command.verb == "dead":
                return [_list_dead(self._actions.dead())]
            notice = _notify(f"{command.label}: {self._act(command)}")
            if command.verb == "replay":
                return [notice, _list_dead(self._actions.dead())]
        except AgentpipeError as error:
            return [_notify(str(error))]
        return [notice]

    def _act(self, command: Command) -> str:
        verbs = {
            "pause": self._actions.pause,
            "resume": self._actions.resume,
            "cancel": self._actions.cancel,
            "replay": self._actions.replay,
        }
        return verbs[command.verb](command.targets)


def _notify(notice: str) -> Change:
    return lambda state: replace(state, notice=notice)


def _list_dead(letters: Sequence[DeadRow]) -> Change:
    def listed(state: ScreenState) -> ScreenState:
        index = max(0, min(state.dead_index, len(letters) - 1))
        return replace(state, dead=tuple(letters), dead_index=index)

    return listed
