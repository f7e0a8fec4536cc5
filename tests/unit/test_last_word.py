"""A watcher reads what its worker has written."""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from typing import Any

import pytest

from agentpipe.brokers.records import Claim
from agentpipe.core.delivered import Delivered
from agentpipe.core.thread_marks import NO_RUN, MarkingExecutor, marked, run_place, write_marks_to
from agentpipe.worker.loop.stepped import Stepped
from agentpipe.worker.watch.culprits import culprits_of
from agentpipe.worker.watch.last_word import AHEAD, HeldClaim, LastWord, LastWordFile


@pytest.fixture
def file() -> LastWordFile:
    return LastWordFile.make()


@pytest.fixture
def word(file: LastWordFile) -> LastWord:
    return LastWord.of(file.path)


def _claim(task_id: str, number: int) -> Claim:
    return Claim(task_id, "queue", b"", "worker", number)


def test_a_file_that_no_worker_has_opened_says_nothing(file: LastWordFile) -> None:
    assert (file.pid, file.serves, file.beats) == (0, False, 0)
    said = file.read()
    assert (said.worker, said.on_loop, said.threads, said.claims) == ("", NO_RUN, {}, {})


def test_what_is_held_is_read_until_it_is_let_go(file: LastWordFile, word: LastWord) -> None:
    word.beat()
    assert (file.pid, file.serves, file.beats) == (os.getpid(), False, 1)
    word.serve("host-1", 2)
    first, second = word.hold(_claim("ä" * 256, 2**63)), word.hold(_claim("two", 7))
    assert word.hold(_claim("no room", 8)) == NO_RUN
    word.begin(second)
    said = file.read()
    assert (said.worker, file.serves) == ("host-1", True)
    assert said.claims == {
        first: HeldClaim(first, "ä" * 256, 2**63, begun=False),
        second: HeldClaim(second, "two", 7, begun=True),
    }
    word.end(second)
    assert file.read().claims[second] == HeldClaim(second, "two", 7, begun=False, ended=True)
    word.let_go(first)
    assert set(file.read().claims) == {second}
    assert word.hold(_claim("three", 9)) == first


def test_threads_are_marked_while_they_work_for_a_run(file: LastWordFile, word: LastWord) -> None:
    write_marks_to(word)
    with marked(3):
        assert file.read().threads == {threading.get_native_id(): 3}
    with marked(NO_RUN):
        assert file.read().threads == {}


def test_a_thread_of_the_loops_executor_is_that_of_the_run(
    file: LastWordFile, word: LastWord
) -> None:
    write_marks_to(word)

    async def run() -> dict[int, int]:
        asyncio.get_running_loop().set_default_executor(MarkingExecutor())
        run_place.set(5)
        return (await asyncio.to_thread(file.read)).threads

    assert list(asyncio.run(run()).values()) == [5]
    assert file.read().threads == {}


def test_a_step_says_whose_it_is_and_looks_like_its_coroutine(
    file: LastWordFile, word: LastWord
) -> None:
    seen: list[int] = []

    async def look() -> str:
        seen.append(file.read().on_loop)
        await asyncio.sleep(0)
        seen.append(file.read().on_loop)
        return "done"

    async def run() -> Any:
        stepped = Stepped(look(), word.on_loop, 4)
        assert inspect.getcoroutinestate(stepped) == inspect.CORO_CREATED
        assert stepped.__name__ == "look"
        return await asyncio.get_running_loop().create_task(stepped)

    assert asyncio.run(run()) == "done"
    assert seen == [4, 4]
    assert file.read().on_loop == NO_RUN


def test_a_task_that_is_cancelled_before_its_first_step_never_awaits(word: LastWord) -> None:
    async def never() -> None:
        raise AssertionError

    async def run() -> None:
        task = asyncio.get_running_loop().create_task(Stepped(never(), word.on_loop, 0))
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(run())  # Warnings are errors, so a coroutine that was never awaited fails here.


def test_the_thread_that_computes_is_the_culprit(file: LastWordFile, word: LastWord) -> None:
    write_marks_to(word)
    word.serve("host-1", 3)
    for name in ("sleeps", "computes"):
        word.begin(word.hold(_claim(name, 1)))
    ends = threading.Event()

    def sleep() -> None:
        with marked(0):
            ends.wait()

    def compute() -> None:
        with marked(1):
            while not ends.is_set():
                sum(range(1_000))

    threads = [threading.Thread(target=sleep), threading.Thread(target=compute)]
    for thread in threads:
        thread.start()
    try:
        assert culprits_of(file.read()) == {1}
    finally:
        ends.set()
        for thread in threads:
            thread.join()


def test_what_is_delivered_ahead_has_room_of_its_own(file: LastWordFile, word: LastWord) -> None:
    word.serve("host-1", 1)
    all_delivered = [Delivered(f"{'a' * 200}{index}", index) for index in range(AHEAD + 1)]
    ahead = [word.lay(each) for each in all_delivered]
    assert word.lay(Delivered("no room", 1)) == NO_RUN
    held = word.hold(_claim("one", 7))
    word.begin(held)
    said = file.read()
    assert said.claims == {held: HeldClaim(held, "one", 7, begun=True)}
    assert said.ahead == tuple(all_delivered)
    for place in ahead:
        word.let_go(place)
    assert file.read().ahead == ()
    assert word.hold(_claim("no room", 8)) == NO_RUN
    assert word.lay(Delivered("again", 1)) == ahead[0]
