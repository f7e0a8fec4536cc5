"""Received: the tasks that a worker's channel has received, until the server knows their ends.

The server closes a channel alone, or its connection ends. Then it delivers again what it does not
know to be acknowledged, and marks this like what a dead worker had. So the worker's next channel
inherits ``Received``: only what is not known from there, or was still being judged, can have ended
a worker. No I/O.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from agentpipe.brokers.rabbitmq.messages import Copy, Message

# What the last channel did with a message: it settled the task; it replaced it by a copy that
# counts a crash; it had it, or put an equal copy back.
Past = Literal["over", "judged", "ours"]
PASTS: tuple[Past, ...] = ("over", "judged", "ours")


class Received:
    """What is here, and what was here and can be delivered again.

    Attributes:
        here: Messages that are not acknowledged, by tag: they wait, run, or are judged or moved.
        unbegun: Agents whose tasks had not begun if they come back, unless there is a verdict: a
            watcher has reported the end of their earlier worker, or it was this worker's channel.
    """

    def __init__(self) -> None:
        self.here: dict[int, Message] = {}
        self.unbegun: set[str] = set()
        self._judging: set[int] = set()
        # What was acknowledged since the server has answered, and what the last channel had.
        self._acknowledged: Counter[tuple[Copy, Past]] = Counter()
        self._earlier: Counter[tuple[Copy, Past]] = Counter()

    def add(self, tag: int, message: Message, *, is_judged: bool = False) -> None:
        """Note a delivery, and whether it is being judged for the end of a worker."""
        self.here[tag] = message
        if is_judged:
            self._judging.add(tag)
        else:
            self._judging.discard(tag)

    def acknowledge(self, tags: Iterable[int], *, is_over: bool) -> None:
        """Note acknowledgements; ``is_over`` unless the task goes on in an equal copy."""
        past: Past = "over" if is_over else "ours"
        for tag in tags:
            message = self.here.pop(tag, None)
            if message is not None:
                self._acknowledged[message.copy, "judged" if tag in self._judging else past] += 1
            self._judging.discard(tag)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Wait for the server to answer: then it knows what was acknowledged before."""
        before = self._acknowledged.copy()
        yield
        self._acknowledged -= before

    def inherit(self, earlier: Received, served: Iterable[str], *, is_connected: bool) -> None:
        """Expect what the last channel had, and what lay unread there of the agents it served.

        On another connection the server's data can be older than a settlement: then the task runs
        again.
        """
        here = (it for tag, it in earlier.here.items() if tag not in earlier._judging)
        ours: Counter[tuple[Copy, Past]] = Counter((it.copy, "ours") for it in here)
        had = earlier._earlier + earlier._acknowledged + ours
        if not is_connected:
            had = Counter((copy, "ours") for copy, past in had.elements() if past != "judged")
        self._earlier, self.unbegun = had, {*earlier.unbegun, *served}

    def recall(self, message: Message) -> Past | None:
        """What the last channel did with a message that is delivered again; None if it is new."""
        for past in PASTS:
            if self._earlier[message.copy, past]:
                self._earlier[message.copy, past] -= 1
                return past
        return None

    def forget_earlier(self, agents: Collection[str]) -> None:
        """Expect nothing more of the last channel; only ``agents`` are served."""
        self._earlier.clear()
        self.unbegun.intersection_update(agents)
