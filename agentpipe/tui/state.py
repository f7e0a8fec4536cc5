"""What the user of ``top`` has selected; only keys and finished commands change it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mode = Literal["table", "filter", "help", "dead", "confirm"]
Verb = Literal["pause", "resume", "cancel", "replay", "dead", "quit"]
SORTS = ("name", "waiting", "running", "oldest", "failed", "rate")


@dataclass(frozen=True, slots=True)
class Command:
    """What a key asks for; ``targets`` are collections and agents, or ids of dead letters."""

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
class ScreenState:
    """Everything that keys change.

    Attributes:
        selected: The key of the selected row; it stays selected when rows move.
        last_index: Where that row was last, in case it disappears.
        pending: The command that waits for a confirmation.
        dead: The dead letters; None while they are fetched.
        dead_index: The selected one.
        notice: The result of the last command.
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

    @property
    def shows_dead(self) -> bool:
        """Whether dead letters are on the screen, perhaps behind a question about one."""
        replays = self.pending is not None and self.pending.verb == "replay"
        return self.mode == "dead" or replays
