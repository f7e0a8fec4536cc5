"""HeldClaims: what a worker process has claimed and not settled.

Kept by claim and not by task: after a lost lease the same worker may claim a task again while its
first run has not ended.
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
    """The claims of a process, and which of them are lost; from any thread.

    A claim is lost once its task is no longer this worker's. Its run is interrupted; it stays here
    until it has ended.

    Args:
        word: Says what is held, for the case that the process can say no more.

    Attributes:
        claiming: To be locked while a claim is made, and until it is added.
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
        """Whether a run goes on whose task may be claimed again."""
        return bool(self._lost)

    @property
    def unfinished_tasks(self) -> int:
        """How many there are: with ``join`` what Dramatiq asks of a queue."""
        return len(self._messages)

    def join(self) -> None:
        """Wait until there are none."""
        while self._messages:
            time.sleep(LOOK_EVERY_S)

    def all(self) -> list[ClaimedMessage]:
        """Those of lost claims among them."""
        return list(self._messages.values())

    def of_tasks(self, task_ids: Collection[str]) -> list[ClaimedMessage]:
        """The claims of these tasks that still count."""
        return [
            message
            for message in self.all()
            if message.claim.task_id in task_ids and message.claim.key not in self._lost
        ]

    def add(self, messages: Iterable[ClaimedMessage]) -> None:
        """These are claimed now."""
        for message in messages:
            message.place = self._word.hold(message.claim)
            self._messages[message.claim.key] = message

    def remove(self, message: ClaimedMessage) -> None:
        """It has ended and is settled."""
        if self._messages.pop(message.claim.key, None) is not None:
            self._word.let_go(message.place)
        self._lost.discard(message.claim.key)

    @contextmanager
    def standing_still(self) -> Iterator[bool]:
        """Keep claims from being made; False where one is under way that does not end."""
        free = self.claiming.acquire(timeout=BRIEFLY_S)
        try:
            yield free
        finally:
            if free:
                self.claiming.release()

    def lose(self, messages: Iterable[ClaimedMessage]) -> None:
        """The tasks of these are no longer this worker's."""
        self._lost.update(m.claim.key for m in messages if m.claim.key in self._messages)
