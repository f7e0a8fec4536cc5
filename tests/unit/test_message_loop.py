"""An event loop whose turns can be observed, and that knows the message of the running code."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
import time
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.core import loop_turns
from agentpipe.core.background import cancel_background, in_background
from agentpipe.core.context import NO_CONTEXT
from agentpipe.core.loop_turns import STALL_S, CountedLoop, done_within, within
from agentpipe.core.task import Task
from agentpipe.engines.instance import Instance
from agentpipe.worker.loop.event_loop import make_task
from agentpipe.worker.loop.message_loop import (
    MessageLoop,
    RunTask,
    current_message,
    message_executing,
)
from agentpipe.worker.watch.last_word import LastWord
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_S = 20.0
# Any object works.
MINE: Any = "mine"


@pytest.fixture
def loop() -> Iterator[MessageLoop]:
    loop = MessageLoop()
    yield loop
    loop.close()


async def _wait_twice(ends: threading.Event) -> None:
    await asyncio.sleep(0)
    ends.wait()


def _start_task(loop: MessageLoop, ends: threading.Event) -> None:
    loop.tasks = [loop.create_task(_wait_twice(ends))]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "start",
    [
        _start_task,
        lambda loop, ends: loop.call_soon(ends.wait),
        lambda loop, ends: loop.call_later(0.01, ends.wait),
        lambda loop, ends: loop.call_soon_threadsafe(ends.wait),
    ],
)
def test_it_is_known_for_which_message_a_loop_executes(
    loop: MessageLoop, start: Callable[[MessageLoop, threading.Event], None]
) -> None:
    ends = threading.Event()

    def begin() -> None:
        current_message.set(MINE)
        start(loop, ends)

    loop.call_soon(begin)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def executing() -> Any:
        return message_executing(sys._current_frames().get(thread.ident or 0))  # noqa: SLF001 - as the loop does

    try:
        wait_until(
            lambda: loop.turns.turn_s > 0.05 and executing() is MINE, PATIENCE_S, "it blocks"
        )
        turns, blocked_s = loop.turns.turns, loop.turns.turn_s
        ends.set()
        wait_until(lambda: loop.turns.turn_s == 0.0, PATIENCE_S, "it waits again")
        assert executing() is None
    finally:
        ends.set()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
    assert loop.turns.turns > turns
    assert loop.turns.take_longest_s() >= blocked_s


async def _exit() -> None:
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (lambda loop: loop.stop(), "loop.stop() was called"),
        (lambda loop: loop.create_task(_exit()), "SystemExit was raised"),
        (lambda loop: loop.call_soon(sys.exit), "SystemExit was raised"),
    ],
)
def test_it_is_known_whose_code_has_ended_a_loop(
    loop: MessageLoop, end: Callable[[MessageLoop], Any], reason: str
) -> None:
    kept: list[Any] = []

    def begin() -> None:
        current_message.set(MINE)
        kept.append(end(loop))

    loop.call_soon(begin)
    error = None
    try:
        loop.run_forever()
    except SystemExit as raised:
        error = raised
    for task in (it for it in kept if isinstance(it, asyncio.Task)):
        task.exception()  # Retrieve it, or asyncio reports it as lost.
    death = loop.death(error)
    assert (death.reason, death.culprit) == (reason, MINE)


def test_a_run_gets_back_the_time_for_which_another_held_up_the_loop() -> None:
    async def scene(block_s: float, run_s: float) -> bool:
        run = asyncio.ensure_future(asyncio.sleep(run_s))
        asyncio.get_running_loop().call_soon(time.sleep, block_s)
        done = await done_within(run, 0.3)
        run.cancel()
        return done

    with asyncio.Runner(loop_factory=CountedLoop) as runner:
        assert runner.run(scene(STALL_S + 0.3, 0.5))
        assert not runner.run(scene(0.0, 60.0))


def test_a_run_that_holds_up_the_loop_gets_its_limit_twice_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop_turns, "STALL_S", 0.05)

    async def endless() -> None:
        while True:
            time.sleep(2 * loop_turns.STALL_S)  # noqa: ASYNC251 - the mistake that is tested
            await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=CountedLoop) as runner, pytest.raises(TimeoutError):
        runner.run(within(endless(), 0.3))


def test_what_runs_within_a_limit_ends_with_its_caller() -> None:
    ended: list[str] = []

    async def forever() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cancelled")

    async def scene() -> None:
        caller = asyncio.ensure_future(within(forever(), 60.0))
        await asyncio.sleep(0.01)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller

    asyncio.run(scene())
    assert ended == ["cancelled"]


@pytest.mark.parametrize(
    ("what", "arguments"),
    [
        ("set_task_factory", (None,)),
        ("set_default_executor", (None,)),
        ("shutdown_default_executor", ()),
        ("shutdown_asyncgens", ()),
    ],
)
def test_a_run_does_not_change_the_loop_of_the_others(
    loop: MessageLoop, what: str, arguments: tuple[Any, ...]
) -> None:
    async def meddle() -> None:
        current_message.set(MINE)
        done = getattr(loop, what)(*arguments)
        if done is not None:
            await done

    with pytest.raises(RuntimeError, match=rf"loop\.{what}\(\) .* `isolation: thread`"):
        loop.run_until_complete(meddle())
    loop.set_task_factory(None)  # Allowed for the worker itself.
    loop.run_until_complete(loop.shutdown_default_executor())


def test_what_is_the_workers_own_is_cancelled_by_the_worker_only(loop: MessageLoop) -> None:
    word = LastWord.of("")
    loop.set_task_factory(partial(make_task, word.on_loop))

    async def own() -> str:
        inner = asyncio.create_task(asyncio.sleep(0.05, "whole"))
        return await inner

    async def meddle() -> None:
        current_message.set(MINE)
        for each in asyncio.all_tasks() - {asyncio.current_task(), outer[0]}:
            each.cancel()

    outer: list[asyncio.Task[Any] | None] = []

    async def both() -> tuple[str, bool]:
        outer.append(asyncio.current_task())
        whole = in_background(own())
        await asyncio.sleep(0)
        await asyncio.create_task(meddle(), context=contextvars.Context())
        ended = in_background(asyncio.sleep(60))
        current_message.set(MINE)  # As the engine does when a run closes its session.
        cancel_background(ended)
        await asyncio.wait({ended})
        return await whole, ended.cancelled()

    assert loop.run_until_complete(both()) == ("whole", True)


class Run:
    """What a task reads of its message."""

    settlement: Any = None


def test_a_task_is_cancelled_by_its_own_run_and_by_the_worker_only(loop: MessageLoop) -> None:
    mine, anothers, ended = Run(), Run(), Run()
    ended.settlement = "made"

    async def cancelled_by(asks: Any) -> list[bool]:
        tasks = [RunTask(asyncio.sleep(60)) for _ in range(4)]
        runs: list[Any] = [mine, anothers, ended, None]
        for task, run in zip(tasks, runs, strict=True):
            task.message = run
        await asyncio.sleep(0)
        current_message.set(asks)
        done = [task.cancel() for task in tasks]
        current_message.set(None)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return done

    assert loop.run_until_complete(cancelled_by(mine)) == [True, False, True, True]
    assert loop.run_until_complete(cancelled_by(None)) == [True] * 4


async def _wait_for(task: asyncio.Task[Any]) -> None:
    await task


def test_a_run_that_waits_for_a_task_of_another_ends_at_its_limit(loop: MessageLoop) -> None:
    theirs: Any = SimpleNamespace(settlement=None)

    async def wait_for(task: RunTask) -> str:
        current_message.set(MINE)
        waiting = RunTask(_wait_for(task))
        waiting.message = MINE
        try:
            async with asyncio.timeout(0.01):
                await waiting
        except TimeoutError:
            return "ended"
        return "went on"

    async def both() -> str:
        task = RunTask(asyncio.sleep(60))
        task.message = theirs
        return await asyncio.wait_for(asyncio.create_task(wait_for(task)), 2)

    assert loop.run_until_complete(both()) == "ended"


COPIED = """
import asyncio, os
from agentpipe.worker.loop.message_loop import MessageLoop

async def fork():
    if not os.fork():
        await asyncio.sleep(0)
        print("the copy of the run goes on", flush=True)

async def neighbour():
    print("neighbour", os.getpid() == parent, flush=True)

async def both():
    await asyncio.gather(fork(), neighbour())
    print("the copy ended with", os.waitstatus_to_exitcode(os.wait()[1]))

parent, loop = os.getpid(), MessageLoop()
loop.run_until_complete(both())
"""


def test_a_copy_of_a_loop_ends_with_the_step_that_forked_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COPIED], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["neighbour True", "the copy ended with 1"]


def test_what_is_called_first_precedes_everything_that_is_ready(loop: MessageLoop) -> None:
    order: list[str] = []

    def start(*names: str) -> None:
        order.append("start")
        for name in names:
            loop.call_soon(order.append, name)
        loop.bring_forward(len(names))

    loop.call_soon(order.append, "ready")
    loop.call_first_threadsafe(start, "a", "b")
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert order == ["start", "a", "b", "ready"]


class Asking:
    """Notes what it is asked."""

    def __init__(self, order: list[str]) -> None:
        self.order = order

    async def execute(self, task: Task, _context: Any) -> None:
        self.order.append(task.question)


def test_an_agent_begins_before_everything_that_is_ready(loop: MessageLoop) -> None:
    order: list[str] = []
    engine: Any = SimpleNamespace(build=lambda: Asking(order))

    async def run(question: str) -> None:
        agent = Instance("agent", engine, NO_CONTEXT, in_thread=False)
        await agent.answer(Task(question=question), PATIENCE_S)

    runs = [loop.create_task(run(question)) for question in ("first", "second")]
    loop.call_soon(order.append, "ready")
    loop.run_until_complete(asyncio.wait(runs))
    assert order == ["first", "second", "ready"]


def test_nothing_is_called_first_on_a_closed_loop(loop: MessageLoop) -> None:
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_first_threadsafe(print)
