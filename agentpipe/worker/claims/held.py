"""HeldClaims: what a worker process has claimed and not settled.

Keyed by claim, not by task: after a lost lease the same worker can claim a task again before its
first run has ended.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agentpipe.worker.times import BRIEFLY_S

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from agentpipe.worker.running.message import ClaimedMessage
    from agentpipe.worker.watch.last_word import LastWord


LOOK_EVERY_S = 0.01


class HeldClaims:
    """The claims of a process, and which of them are lost; thread-safe.

    A claim is lost once its task no longer belongs to this worker. Its run is interrupted; the
    claim stays here until the run has ended.

    Args:
        word: Records what is held, in case the process dies without reporting it.

    Attributes:
        claiming: Lock held while a claim is made, until it is added.
    """

    def __init__(self, word: LastWord) -> None:
        self._word = word
        self._messages: dict[tuple[str, int], ClaimedMessage] = {}
        self._lost: set[tuple[str, int]] = set()
        self.claiming = threading.Lock()

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def has_lost(self) -> bool:
        """Whether a run is still going whose task can be claimed again."""
        return bool(self._lost)

    @property
    def unfinished_tasks(self) -> int:
        """Number of held claims; Dramatiq expects this and ``join`` of a queue."""
        return len(self._messages)

    def join(self) -> None:
        """Wait until no claims are held."""
        while self._messages:
            time.sleep(LOOK_EVERY_S)

    def all(self) -> list[ClaimedMessage]:
        """All held claims, including lost ones."""
        return list(self._messages.values())

    def of_tasks(self, task_ids: Collection[str]) -> list[ClaimedMessage]:
        """The claims of these tasks that are not lost."""
        return [
            message
            for message in self.all()
            if message.claim.task_id in task_ids and message.claim.key not in self._lost
        ]

    def add(self, messages: Iterable[ClaimedMessage]) -> None:
        """Add new claims."""
        for message in messages:
            message.place = self._word.hold(message.claim)
            self._messages[message.claim.key] = message

    def remove(self, message: ClaimedMessage) -> None:
        """Remove a claim whose run has ended and is settled."""
        if self._messages.pop(message.claim.key, None) is not None:
            self._word.let_go(message.place)
        self._lost.discard(message.claim.key)

    @contextmanager
    def standing_still(self) -> Iterator[bool]:
        """Block new claims; yield False if a claim in progress does not finish in time."""
        free = self.claiming.acquire(timeout=BRIEFLY_S)
        try:
            yield free
        finally:
            if free:
                self.claiming.release()

    def lose(self, messages: Iterable[ClaimedMessage]) -> None:
        """Mark these claims as lost: their tasks no longer belong to this worker."""
        self._lost.update(m.claim.key for m in messages if m.claim.key in self._messages)
