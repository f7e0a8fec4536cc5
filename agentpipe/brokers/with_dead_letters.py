"""WithDeadLetters: a mixin for stores that delegate their dead letters to another object."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.brokers.capabilities import KeepsDeadLetters
    from agentpipe.brokers.dead_letter import DeadFilter, DeadLetter, DeadPage


class WithDeadLetters:
    """``KeepsDeadLetters`` for a store, delegated to its ``_dead``."""

    _dead: KeepsDeadLetters

    def dead_letters(self, wanted: DeadFilter, after: str, limit: int) -> DeadPage:
        return self._dead.dead_letters(wanted, after, limit)

    def count_dead(self, wanted: DeadFilter) -> int | None:
        return self._dead.count_dead(wanted)

    def read_dead(self, task_ids: Sequence[str]) -> list[DeadLetter]:
        return self._dead.read_dead(task_ids)

    def drop_dead(self, task_ids: Sequence[str]) -> int:
        return self._dead.drop_dead(task_ids)
