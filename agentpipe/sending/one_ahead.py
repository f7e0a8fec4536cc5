"""One ahead: the next batch is made while the store takes the last one.

Both need the interpreter, which a thread of Python's gives up after milliseconds only: at the end
of each statement the store would wait for the maker. So they take turns: the maker makes a part of
its batch in each pause of the store, and stops.
"""

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


class Pace:
    """When a thread makes the next item, beside one that does the last.

    That one says when it pauses; the maker rests after each part until then.
    """

    def __init__(self) -> None:
        self._goes_on, self._is_free = threading.Event(), True

    def begin(self) -> None:
        """Something is done from now on."""
        self._goes_on.clear()
        self._is_free = False

    def pause(self) -> None:
        """It leaves the interpreter to others for long."""
        self._goes_on.set()

    def end(self) -> None:
        """It is done, or says nothing of its pauses."""
        self._is_free = True
        self._goes_on.set()

    def rest(self) -> None:
        """Wait for the next pause, or for the end."""
        if not self._is_free:
            self._goes_on.wait()
            self._goes_on.clear()


def one_ahead(
    do: Callable[[Item], Outcome],
    items: Iterator[Item],
    may_follow: Callable[[Item], bool],
    pace: Pace,
) -> Iterator[tuple[Item, Outcome]]:
    """Each item with what ``do`` gives for it, in order, one after the other.

    Where another item ``may_follow``, ``do`` runs in a thread while that one is made. It begins
    with an item once its caller asks for that one's outcome. ``pace`` is that of ``do`` and
    ``items``: both may leave it alone, but ``items`` rests only where ``do`` pauses or ends.

    Raises:
        BaseException: What ``do`` or ``items`` raises, after the outcomes of all items before it.
    """
    made = _next_of(items)
    while made.item is not None:
        item: Item = made.item
        if may_follow(item):
            outcome, made = _with_next(do, item, items, pace)
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
    do: Callable[[Item], Outcome], item: Item, items: Iterator[Item], pace: Pace
) -> tuple[Outcome, _Made[Item]]:
    doing = _Doing(do, item, pace)
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

    def __init__(self, do: Callable[[Item], Outcome], item: Item, pace: Pace) -> None:
        super().__init__(name="agentpipe-sender", daemon=True)
        self._do, self._item, self._pace = do, item, pace
        self._outcome: list[Outcome] = []
        self._fault: BaseException | None = None
        pace.begin()
        self.start()

    def run(self) -> None:
        """Keep the outcome, or what was raised."""
        try:
            self._outcome.append(self._do(self._item))
        except BaseException as error:  # noqa: BLE001 - its caller's
            self._fault = error
        finally:
            self._pace.end()

    def outcome(self) -> Outcome:
        """What it gave, once it has ended; raises what it raised."""
        self.join()
        if self._fault is not None:
            raise self._fault
        return self._outcome[0]
