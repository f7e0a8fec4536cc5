"""One ahead: order, concurrency, and when an error is raised."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.sending.one_ahead import Pace, one_ahead

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S = 10.0


def always(_: Any) -> bool:
    return True


def failing_after(number: int, error: BaseException) -> Iterator[int]:
    yield from range(1, number + 1)
    raise error


def test_each_item_has_its_outcome_in_order() -> None:
    found = one_ahead(lambda item: item * 10, iter([1, 2, 3]), lambda item: item < 3, Pace())
    assert list(found) == [(1, 10), (2, 20), (3, 30)]


def test_the_next_item_is_made_while_the_last_one_is_done() -> None:
    made = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        made.set()
        yield 2

    ahead = one_ahead(lambda _: made.wait(PATIENCE_S), items(), always, Pace())
    assert next(ahead) == (1, True)


def test_only_one_is_done_at_once_and_none_before_it_is_asked_for() -> None:
    begun: list[int] = []
    ahead = one_ahead(begun.append, iter([1, 2, 3]), always, Pace())
    assert begun == []
    for number in (1, 2, 3):
        assert next(ahead) == (number, None)
        assert begun == list(range(1, number + 1))


def test_the_last_item_needs_no_thread() -> None:
    found = one_ahead(lambda _: threading.current_thread(), iter([1]), lambda _: False, Pace())
    assert list(found) == [(1, threading.current_thread())]


def test_what_items_raise_comes_after_the_outcomes_before_it() -> None:
    ahead = one_ahead(str, failing_after(2, ValueError("the third")), always, Pace())
    assert [next(ahead), next(ahead)] == [(1, "1"), (2, "2")]
    with pytest.raises(ValueError, match="the third"):
        next(ahead)


def test_what_is_raised_for_an_item_ends_all() -> None:
    asked: list[int] = []

    def do(item: int) -> None:
        asked.append(item)
        if item == 2:
            raise ConnectionError("away")

    ahead = one_ahead(do, iter([1, 2, 3]), always, Pace())
    assert next(ahead) == (1, None)
    with pytest.raises(ConnectionError, match="away"):
        next(ahead)
    assert asked == [1, 2]
    assert list(ahead) == []


def test_an_interruption_waits_for_what_is_under_way() -> None:
    done: list[int] = []
    ahead = one_ahead(done.append, failing_after(1, KeyboardInterrupt()), always, Pace())
    with pytest.raises(KeyboardInterrupt):
        next(ahead)
    assert done == [1]


def test_each_part_of_the_next_item_is_made_in_a_pause() -> None:
    pace, said, heard = Pace(), list[str](), threading.Semaphore(0)

    def items() -> Iterator[str]:
        yield "first"
        for part in ("a", "b"):
            pace.rest()
            said.append(part)
            heard.release()
        yield "second"

    def do(item: str) -> None:
        for part in range(2) if item == "first" else ():
            said.append(f"pause {part}")
            pace.pause()
            assert heard.acquire(timeout=PATIENCE_S)

    assert [item for item, _ in one_ahead(do, items(), always, pace)] == ["first", "second"]
    assert said == ["pause 0", "a", "pause 1", "b"]


def test_who_is_done_or_failed_lets_the_next_item_be_made() -> None:
    pace = Pace()

    def items() -> Iterator[int]:
        for number in range(3):
            for _ in range(5):
                pace.rest()
            yield number

    def do(item: int) -> int:
        if item:
            raise ConnectionError("away")
        return item

    ahead = one_ahead(do, items(), always, pace)
    assert next(ahead) == (0, 0)
    with pytest.raises(ConnectionError):
        next(ahead)
