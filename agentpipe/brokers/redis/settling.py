"""Settling: sends settlements, and remembers those whose reply was lost.

A caller that got no answer settles the same claims again, perhaps with others among them. What
the lost attempt did is found out first: a claim that its own settlement ended is not reported as
lost.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from agentpipe.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from agentpipe.brokers.records import Settlement

    Ask = Callable[[Sequence[Settlement]], list[bool]]

PORTION = 500
PORTION_BYTES = 8 * 1024 * 1024


class Settler:
    """Settles in batches; from any thread.

    Args:
        ask: Carries a portion out, and when asked the same again gives the same answer.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._unsure: list[Sequence[Settlement]] = []
        # Carried out, but the caller does not know it: the action, by claim.
        self._done: dict[tuple[str, int], str] = {}
        self._mutex = threading.Lock()

    def settle(self, settlements: Sequence[Settlement], last: Ask | None = None) -> list[bool]:
        """See ``Store.settle``.

        Args:
            settlements: What to carry out.
            last: Carries the last portion out in place of ``ask``, under the same request; it is
                not called where an earlier attempt has done all.

        Raises:
            Unreachable: Some may be carried out; settle all of them again.
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
        for each, was_done in zip(settlements, done, strict=False):  # Those up to a failure.
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
