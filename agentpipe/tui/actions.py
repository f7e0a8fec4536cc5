"""Runs the commands of ``top`` one after another, in their own thread."""

from __future__ import annotations

import queue
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from agentpipe.errors import AgentpipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.text import Text

    from agentpipe.tui.state import Command, DeadRow, EndedRow, ScreenState

    Change = Callable[[ScreenState], ScreenState]


class Actions(Protocol):
    """What keys can do to a fleet.

    Methods that change the fleet return a short message. Failures raise ``AgentpipeError``.
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

    def ended(self, queue: str) -> Sequence[EndedRow]:
        """The tasks of this agent that ended last, newest first."""

    def page(self, task_id: str) -> Sequence[Text]:
        """The page of a task: its Result, or where it is."""


class ActionThread(threading.Thread):
    """Runs commands and passes their results to the screen.

    Args:
        on_change: Called in this thread when ``apply_results`` has something to apply.
    """

    def __init__(self, actions: Actions, on_change: Callable[[], None]) -> None:
        super().__init__(name="agentpipe-top-actions", daemon=True)
        self._actions, self._on_change = actions, on_change
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Change] = queue.SimpleQueue()

    def submit(self, command: Command) -> None:
        """Queue the command."""
        self._commands.put(command)

    def apply_results(self, state: ScreenState) -> ScreenState:
        """Apply the results of all commands that finished since the last call."""
        while not self._results.empty():
            state = self._results.get()(state)
        return state

    def run(self) -> None:
        """Run commands until the process exits."""
        while True:
            for change in self._perform(self._commands.get()):
                self._results.put(change)
            self._on_change()

    def _perform(self, command: Command) -> list[Change]:
        try:
            return self._done(command)
        except AgentpipeError as error:
            return _failed(command, str(error))

    def _done(self, command: Command) -> list[Change]:
        if command.verb == "dead":
            return [_list_dead(self._actions.dead())]
        if command.verb == "tasks":
            return [_list_ended(command.label, self._actions.ended(command.label))]
        if command.verb == "show":
            return [_show(command.label, self._actions.page(command.label))]
        notice = _notify(f"{command.label}: {self._act(command)}")
        return [notice, *([_list_dead(self._actions.dead())] if command.verb == "replay" else [])]

    def _act(self, command: Command) -> str:
        verbs = {
            "pause": self._actions.pause,
            "resume": self._actions.resume,
            "cancel": self._actions.cancel,
            "replay": self._actions.replay,
        }
        return verbs[command.verb](command.targets)


def _failed(command: Command, why: str) -> list[Change]:
    if command.verb == "tasks":
        return [_list_ended(command.label, (), why)]
    if command.verb == "show":
        return [_notify(why), _show(command.label, ())]
    return [_notify(why)]


def _notify(notice: str) -> Change:
    return lambda state: replace(state, notice=notice)


def _list_dead(letters: Sequence[DeadRow]) -> Change:
    def listed(state: ScreenState) -> ScreenState:
        index = max(0, min(state.dead_index, len(letters) - 1))
        return replace(state, dead=tuple(letters), dead_index=index)

    return listed


def _list_ended(agent: str, rows: Sequence[EndedRow], problem: str = "") -> Change:
    """Show the tasks, unless the user has opened another agent meanwhile."""

    def listed(state: ScreenState) -> ScreenState:
        if state.agent != agent:
            return state
        return replace(state, ended=tuple(rows), no_results=problem)

    return listed


def _show(task_id: str, lines: Sequence[Text]) -> Change:
    def shown(state: ScreenState) -> ScreenState:
        return state if state.task_id != task_id else replace(state, page=tuple(lines))

    return shown
