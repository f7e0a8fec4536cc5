"""One ahead: makes the next batch while the store takes the last one.

Both need the interpreter, and a Python thread gives it up only after milliseconds: at the end of
each statement the store would wait for the maker. So they take turns: the maker makes a part of its
batch in each pause of the store, then stops.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

# How long an interrupted sender waits for the batch in progress.
END_WITHIN_S = 5.0


class Pace:
    """Coordinates a thread that makes the next item with one that processes the last.

    The processing thread reports its pauses; the maker rests after each part until the next one.
    """

    def __init__(self) -> None:
        self._goes_on, self._is_free = threading.Event(), True

    def begin(self) -> None:
        """Note that an item is being processed."""
        self._goes_on.clear()
        self._is_free = False

    def pause(self) -> None:
        """Note that the processing thread leaves the interpreter free for a while."""
        self._goes_on.set()

    def end(self) -> None:
        """Note that the item is done, or that its pauses are not reported."""
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
    """Yield each item with the result of ``do``, in order, one after the other.

    If another item ``may_follow``, ``do`` runs in a thread while that one is made. It starts on an
    item once the caller asks for that item's outcome. ``do`` and ``items`` share ``pace``; using it
    is optional, but ``items`` rests only if ``do`` pauses or ends.

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
    """The next item; None at the end, with the error that ended the items, if any."""

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
    except Exception as error:  # noqa: BLE001 - raised after the outcomes of earlier items
        return _Made(None, error)


class _Doing(threading.Thread, Generic[Item, Outcome]):
    """Processes one item, starting at once."""

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
        except BaseException as error:  # noqa: BLE001 - raised again in ``outcome``
            self._fault = error
        finally:
            self._pace.end()

    def outcome(self) -> Outcome:
        """Wait for the end; return the result, or raise what was raised."""
        self.join()
        if self._fault is not None:
            raise self._fault
        return self._outcome[0]
