"""Buffer: rows queued for an asynchronous trainer, and which groups it has used."""

from __future__ import annotations

import math
import threading
from collections import deque
from queue import Queue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Buffer(Queue[Any]):
    """A queue of TRL's ``RolloutSample``; drops whole groups that became too old in it.

    Attributes:
        version: The trainer's version, for ``max_staleness``.
        drops_behind: TRL itself drops rows that are more than this many versions behind.
    """

    def __init__(
        self, maxsize: int, max_staleness: int | None, dropped: Callable[[], None]
    ) -> None:
        """``dropped`` is called in the trainer's thread for each dropped group."""
        super().__init__(maxsize)
        self.version = 0
        self.drops_behind = math.inf
        self._most = math.inf if max_staleness is None else max_staleness
        self._dropped = dropped
        self._lock = threading.Lock()
        self._held: dict[int, str] = {}  # Unused groups: names by number.
        self._oldest: dict[int, int] = {}  # Oldest version of groups without a taken row.
        self._taken: deque[int] = deque()  # The groups of taken rows that are not trained yet.
        self._group, self._group_is_used = -1, False  # The group of the last row.

    def begin(self, group: int, name: str, oldest: int | None = None) -> None:
        """The rows of this group follow; ``oldest`` is their lowest version, if known."""
        with self._lock:
            self._held[group] = name
            if oldest is not None:
                self._oldest[group] = oldest

    def leave_out(self, group: int) -> None:
        """The group has no rows, so none of it will be trained on."""
        with self._lock:
            self._held.pop(group, None)
            self._oldest.pop(group, None)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:  # noqa: FBT001, FBT002 - the queue's
        """The next row that is not too old.

        Raises:
            queue.Empty: No row came for ``timeout`` seconds.
        """
        while True:
            row = super().get(block, timeout)
            if self._is_used(row):
                return row

    def _is_used(self, row: Any) -> bool:
        """Whether to use the row; decided at a group's first row, by its oldest version."""
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
        """The trainer has trained on this many more rows, in the order it took them."""
        with self._lock:
            for _ in range(int(min(rows, len(self._taken)))):
                self._held.pop(self._taken.popleft(), None)

    @property
    def unused(self) -> list[str]:
        """The names of the groups without a trained row."""
        with self._lock:
            return list(self._held.values())
