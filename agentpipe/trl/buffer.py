"""Buffer: rows on their way to an asynchronous trainer, and which groups it has used."""

from __future__ import annotations

import math
import threading
from collections import deque
from queue import Queue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Buffer(Queue[Any]):
    """A queue of TRL's ``RolloutSample``; what has become too old in it is dropped by groups.

    Attributes:
        version: The trainer's, for ``max_staleness``.
        drops_behind: By how many versions a row may be older before TRL itself drops it.
    """

    def __init__(
        self, maxsize: int, max_staleness: int | None, dropped: Callable[[], None]
    ) -> None:
        """``dropped`` is called, in the trainer's thread, for each group that is."""
        super().__init__(maxsize)
        self.version = 0
        self.drops_behind = math.inf
        self._most = math.inf if max_staleness is None else max_staleness
        self._dropped = dropped
        self._lock = threading.Lock()
        self._held: dict[int, str] = {}  # Unused groups, by their numbers.
        self._oldest: dict[int, int] = {}  # Versions of those without a taken row.
        self._taken: deque[int] = deque()  # By their groups: rows that are not trained yet.
        self._group, self._group_is_used = -1, False  # That of the last row.

    def begin(self, group: int, name: str, oldest: int | None = None) -> None:
        """Its rows follow; ``oldest`` is the lowest version of any, where that is known."""
        with self._lock:
            self._held[group] = name
            if oldest is not None:
                self._oldest[group] = oldest

    def leave_out(self, group: int) -> None:
        """It has no rows, so nothing of it will be trained."""
        with self._lock:
            self._held.pop(group, None)
            self._oldest.pop(group, None)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:  # noqa: FBT001, FBT002 - the queue's
        """The next row that is young enough.

        Raises:
            queue.Empty: None came for ``timeout`` seconds.
        """
        while True:
            row = super().get(block, timeout)
            if self._is_used(row):
                return row

    def _is_used(self, row: Any) -> bool:
        """Decided at the first row of a group for all of them, by the oldest."""
        group, is_first = row.group_id, row.group_id != self._group
        if is_first:
            oldest = min(row.model_version, self._oldest.pop(group, row.model_version))
            self._group = group
            self._group_is_used = self.version - oldest <= min(self._most, self.drops_behind)
        with self._lock:
            if not self._group_is_used:
                self._held.pop(group, None)
            elif self.version - row.model_version <= self.drops_behind:
                self._taken.append(group)
        if is_first and not self._group_is_used:
            self._dropped()
        return self._group_is_used

    def trained(self, rows: float = math.inf) -> None:
        """The trainer has trained so many more rows, the first that it has taken."""
        with self._lock:
            for _ in range(int(min(rows, len(self._taken)))):
                self._held.pop(self._taken.popleft(), None)

    @property
    def unused(self) -> list[str]:
        """The names of the groups without a trained row."""
        with self._lock:
            return list(self._held.values())
