"""Settling: sends settlements, and remembers those whose reply was lost.

A caller that got no reply settles the same claims again, possibly along with others. The settler
first finds out what the lost attempt did, so a claim that it settled is not reported as lost.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from agentpipe.brokers.redis.scripts import PORTION
from agentpipe.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from agentpipe.brokers.records import Settlement

    Ask = Callable[[Sequence[Settlement]], list[bool]]

# How many bytes one call handles: it stops the server for as long.
PORTION_BYTES = 8 * 1024 * 1024


class Settler:
    """Settles in batches. Thread-safe.

    Args:
        ask: Settles one portion. Idempotent: a repeated call returns the first call's answer.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._unsure: list[Sequence[Settlement]] = []
        # The action by claim key, for settlements that took effect without the caller knowing.
        self._done: dict[tuple[str, int], str] = {}
        self._mutex = threading.Lock()

    def settle(self, settlements: Sequence[Settlement], last: Ask | None = None) -> list[bool]:
        """See ``Store.settle``.

        Args:
            settlements: The settlements to apply.
            last: Settles the last portion instead of ``ask``, under the same request. Not called
                if an earlier attempt already settled the whole portion.

        Raises:
            Unreachable: Some may have taken effect; settle all of them again.
        """
        with self._mutex:
            self._find_out()
            done: list[bool] = []
            try:
                for portion in (portions := list(_portions(settlements))):
                    ask = last if last and portion is portions[-1] else self._ask
                    done += self._settle(portion, ask)
            except Unreachable:
                self._note(settlements, done)
                raise
            return done

    def _find_out(self) -> None:
        while self._unsure:
            portion = self._unsure[0]
            self._note(portion, self._ask(portion))
            del self._unsure[0]

    def _settle(self, portion: Sequence[Settlement], ask: Ask) -> list[bool]:
        actions = [self._done.pop(each.claim.key, None) for each in portion]
        pairs = list(zip(portion, actions, strict=True))
        fresh = [each for each, action in pairs if action is None]
        try:
            answers = iter(ask(fresh) if fresh else [])
        except Unreachable:
            self._unsure.append(fresh)
            self._done |= {each.claim.key: action for each, action in pairs if action}
            raise
        return [
            next(answers) if action is None else action == each.action for each, action in pairs
        ]

    def _note(self, settlements: Sequence[Settlement], done: Sequence[bool]) -> None:
        for each, was_done in zip(settlements, done, strict=False):  # ``done`` ends at a failure.
            if was_done:
                self._done[each.claim.key] = each.action


def _portions(settlements: Sequence[Settlement]) -> Iterator[Sequence[Settlement]]:
    first = size = 0
    for index, each in enumerate(settlements):
        more = len(each.result) + len(each.payload)
        if index > first and (index - first == PORTION or size + more > PORTION_BYTES):
            yield settlements[first:index]
            first, size = index, 0
        size += more
    if settlements:
        yield settlements[first:]
