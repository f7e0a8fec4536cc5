"""Refill: lets the consumer refill slots before more runs end, if many end at the same time.

An embedded store works in this process. It gives the interpreter away at each of its statements,
and the loop, which has hundreds of ends to work through, takes it for a moment each time. The next
runs would start only after nearly all of these ends.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# A turn of the consumer takes a tenth of this.
PATIENCE_S = 0.02
# Ended runs to settle together: with more, the first of them would wait longer for its next run.
# Beside a server the loop goes on meanwhile, and a larger batch costs it less.
TOGETHER, TOGETHER_BESIDE_SERVER = 16, 32


class Refill:
    """The loop waits for the consumer's turn, never long.

    After a wait in vain it does not wait again before that turn has ended: a store that does not
    answer delays the other runs only once.

    Args:
        waits: Whether the loop waits at all; beside a server's answer it should go on.

    Attributes:
        together: How many ended runs to post at once, if many end in the same turn.
    """

    def __init__(self, *, waits: bool) -> None:
        self._waits, self.together = waits, TOGETHER if waits else TOGETHER_BESIDE_SERVER
        self._changed = threading.Condition()
        self._posted = self._filled = self._in_vain = 0

    def after(self, post: Callable[[], None]) -> None:
        """Post ended runs, and wait until their slots are refilled; called on the loop's thread."""
        waits = self._waits and self._filled >= self._in_vain
        self._posted += 1
        post()
        if waits:
            with self._changed:
                if not self._changed.wait_for(lambda: self._filled == self._posted, PATIENCE_S):
                    self._in_vain = self._posted

    @property
    def posted(self) -> int:
        """How much was posted; the consumer reads it before a turn."""
        return self._posted

    def done(self, posted: int) -> None:
        """Note a turn that handled everything ``posted`` before it."""
        with self._changed:
            self._filled = posted
            self._changed.notify_all()
