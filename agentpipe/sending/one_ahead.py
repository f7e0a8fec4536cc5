"""One ahead: the next batch is made while the store takes the last one."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

# A sender that is interrupted waits so long for the batch that is under way.
END_WITHIN_S = 5.0


def one_ahead(
    do: Callable[[Item], Outcome], items: Iterator[Item], may_follow: Callable[[Item], bool]
) -> Iterator[tuple[Item, Outcome]]:
    """Each item with what ``do`` gives for it, in order, one after the other.

    Where another item ``may_follow``, ``do`` runs in a thread while that one is made. It begins
    with an item once its caller asks for that one's outcome.

    Raises:
        BaseException: What ``do`` or ``items`` raises, after the outcomes of all items before it.
    """
    made = _next_of(items)
    while made.item is not None:
        item: Item = made.item
        if may_follow(item):
            outcome, made = _with_next(do, item, items)
            yield item, outcome
        else:
            yield item, do(item)
            made = _next_of(items)
    if made.fault is not None:
        raise made.fault


@dataclass(frozen=True, slots=True)
class _Made(Generic[Item]):
    """The next item, or None at the end, with why there is no other."""

    item: Item | None
    fault: Exception | None = None


def _with_next(
    do: Callable[[Item], Outcome], item: Item, items: Iterator[Item]
) -> tuple[Outcome, _Made[Item]]:
    doing = _Doing(do, item)
    try:
        made = _next_of(items)
        return doing.outcome(), made
    except BaseException:
        doing.join(END_WITHIN_S)
        raise


def _next_of(items: Iterator[Item]) -> _Made[Item]:
    try:
        return _Made(next(items, None))
    except Exception as error:  # noqa: BLE001 - raised after the outcomes of those before
        return _Made(None, error)


class _Doing(threading.Thread, Generic[Item, Outcome]):
    """Does one thing, from now on."""

    def __init__(self, do: Callable[[Item], Outcome], item: Item) -> None:
        super().__init__(name="agentpipe-sender", daemon=True)
        self._do, self._item = do, item
        self._outcome: list[Outcome] = []
        self._fault: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Keep the outcome, or what was raised."""
        try:
            self._outcome.append(self._do(self._item))
        except BaseException as error:  # noqa: BLE001 - its caller's
            self._fault = error

    def outcome(self) -> Outcome:
        """What it gave, once it has ended; raises what it raised."""
        self.join()
        if self._fault is not None:
            raise self._fault
        return self._outcome[0]
