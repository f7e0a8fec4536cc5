"""The state of the user interface; only keys and finished commands change it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agentpipe.monitoring.rows import SORTS

if TYPE_CHECKING:
    from rich.text import Text

Mode = Literal["table", "filter", "help", "dead", "confirm", "tasks", "task"]
Verb = Literal["pause", "resume", "cancel", "replay", "dead", "tasks", "show", "quit"]


@dataclass(frozen=True, slots=True)
class Command:
    """A command that a key submits; ``targets`` are collections and agents, or task ids."""

    verb: Verb
    targets: tuple[str, ...] = ()
    label: str = ""


@dataclass(frozen=True, slots=True)
class DeadRow:
    """A dead letter in the list."""

    task_id: str
    queue: str
    outcome: str
    reason: str
    age_s: float


@dataclass(frozen=True, slots=True)
class EndedRow:
    """A task of an agent that has ended.

    Attributes:
        finished_s: When it finished, in Unix seconds.
        took_s: The duration of its last run; None if it never ran.
        said: Its error, or the beginning of its answer.
    """

    task_id: str
    outcome: str
    reward: float | None
    finished_s: float
    took_s: float | None
    said: str


@dataclass(frozen=True, slots=True)
class ScreenState:
    """Everything that keys change.

    Attributes:
        selected: The key of the selected row; it stays selected when rows move.
        last_index: The last index of that row, in case it disappears.
        pending: The command that waits for confirmation.
        dead: The dead letters; None while they are fetched.
        dead_index: The index of the selected dead letter.
        notice: The result of the last command.
        run: The run of ``--run``; empty for all runs in progress.
        agent: The agent whose tasks are listed.
        ended: Its tasks that ended last, newest first; None while they are fetched.
        no_results: Why its ended tasks cannot be shown.
        task_id: The selected task in that list; ``task_index`` is its last index.
        page: The lines of that task's page; None while they are fetched.
        scroll: The first line of the page that is shown.
    """

    mode: Mode = "table"
    selected: str = ""
    last_index: int = 0
    expanded: frozenset[str] = frozenset()
    filter: str = ""
    sort: str = SORTS[0]
    pending: Command | None = None
    dead: tuple[DeadRow, ...] | None = None
    dead_index: int = 0
    notice: str = ""
    run: str = ""
    agent: str = ""
    ended: tuple[EndedRow, ...] | None = None
    no_results: str = ""
    task_id: str = ""
    task_index: int = 0
    page: tuple[Text, ...] | None = None
    scroll: int = 0

    @property
    def shows_dead(self) -> bool:
        """Whether dead letters are on the screen, even behind a confirmation."""
        replays = self.pending is not None and self.pending.verb == "replay"
        return self.mode == "dead" or replays
