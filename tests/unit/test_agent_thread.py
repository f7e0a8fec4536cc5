"""An AgentThread runs calls in order, each in its context, and can be interrupted."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.core.agent_thread import AgentThread, RunInterrupted, call_in_thread, join_closed
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

PATIENCE_S = 20.0
NAME = contextvars.ContextVar("NAME", default="nobody")


def in_thread(use: Callable[[AgentThread], Coroutine[Any, Any, Any]]) -> Any:
    async def run() -> Any:
        thread = AgentThread("agent under test")
        try:
            return await use(thread)
        finally:
            thread.close()

    return asyncio.run(run())


def test_calls_run_in_one_thread_of_its_name() -> None:
    async def use(thread: AgentThread) -> set[Any]:
        return {
            (
                await thread.call(threading.get_ident),
                (await thread.call(threading.current_thread)).name,
            )
            for _ in range(3)
        }

    ((ident, name),) = in_thread(use)
    assert ident != threading.get_ident()
    assert name == "agent under test"


def test_a_coroutine_runs_in_the_thread_on_one_loop() -> None:
    async def where() -> tuple[int, int]:
        await asyncio.sleep(0)
        return threading.get_ident(), id(asyncio.get_running_loop())

    async def use(thread: AgentThread) -> Any:
        return await thread.call(where), await thread.call(where), id(asyncio.get_running_loop())

    first, second, mine = in_thread(use)
    assert first == second
    assert first[0] != threading.get_ident()
    assert first[1] != mine


def test_context_variables_of_the_caller_are_seen() -> None:
    async def coroutine() -> str:
        return NAME.get()

    async def use(thread: AgentThread) -> Any:
        NAME.set("caller")
        return await thread.call(NAME.get), await thread.call(coroutine)

    assert in_thread(use) == ("caller", "caller")


@pytest.mark.parametrize("error", [LookupError, SystemExit, KeyboardInterrupt])
def test_what_a_call_raises_comes_out_and_the_thread_goes_on(error: type[BaseException]) -> None:
    def fail() -> None:
        raise error

    async def use(thread: AgentThread) -> Any:
        with pytest.raises(error):
            await thread.call(fail)
        return await thread.call(lambda: "goes on")

    assert in_thread(use) == "goes on"


def test_stop_iteration_comes_out_as_an_error() -> None:
    def fail() -> None:
        raise StopIteration

    async def use(thread: AgentThread) -> None:
        await thread.call(fail)

    with pytest.raises(RuntimeError, match="StopIteration"):
        in_thread(use)


def test_a_plain_call_is_interrupted_and_the_thread_goes_on() -> None:
    begun = threading.Event()

    def spin() -> None:
        begun.set()
        while True:
            time.sleep(0.001)

    async def use(thread: AgentThread) -> Any:
        running = asyncio.ensure_future(thread.call(spin))
        await asyncio.to_thread(begun.wait, PATIENCE_S)
        thread.interrupt()
        with pytest.raises(RunInterrupted):
            await asyncio.wait_for(running, PATIENCE_S)
        return await thread.call(lambda: "goes on")

    assert in_thread(use) == "goes on"


def test_except_exception_does_not_catch_an_interruption() -> None:
    assert not issubclass(RunInterrupted, Exception)


def test_a_coroutine_is_cancelled_and_the_thread_goes_on() -> None:
    begun = threading.Event()

    async def wait() -> None:
        begun.set()
        await asyncio.sleep(60)

    async def use(thread: AgentThread) -> Any:
        running = asyncio.ensure_future(thread.call(wait))
        await asyncio.to_thread(begun.wait, PATIENCE_S)
        thread.interrupt()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(running, PATIENCE_S)
        return await thread.call(lambda: "goes on")

    assert in_thread(use) == "goes on"


def test_an_interruption_between_calls_hits_nothing() -> None:
    async def use(thread: AgentThread) -> Any:
        await thread.call(lambda: None)
        thread.interrupt()
        return await thread.call(lambda: "goes on")

    assert in_thread(use) == "goes on"


def test_a_call_that_has_not_begun_is_interrupted_too() -> None:
    release, ran = threading.Event(), threading.Event()

    async def use(thread: AgentThread) -> Any:
        first = asyncio.ensure_future(thread.call(lambda: release.wait(PATIENCE_S)))
        second = asyncio.ensure_future(thread.call(ran.set))
        await asyncio.sleep(0)
        thread.interrupt()
        release.set()
        assert await first
        with pytest.raises(RunInterrupted):
            await second

    in_thread(use)
    assert not ran.is_set()


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_an_interruption_hits_its_call_or_nothing_whenever_it_comes(kind: str) -> None:
    def compute() -> int:
        return sum(range(200))

    async def compute_on_a_loop() -> int:
        return compute()

    async def use(thread: AgentThread) -> None:
        for number in range(300):
            call = thread.call(compute if kind == "plain" else compute_on_a_loop)
            running = asyncio.ensure_future(call)
            await asyncio.sleep(0)
            for _ in range(number % 30 * 10):
                pass
            thread.interrupt()
            with suppress(RunInterrupted, asyncio.CancelledError):
                await asyncio.wait_for(running, PATIENCE_S)
            assert await asyncio.wait_for(thread.call(lambda: "goes on"), PATIENCE_S) == "goes on"

    in_thread(use)


def test_close_ends_the_thread_after_its_calls() -> None:
    before = threading.active_count()

    async def use(thread: AgentThread) -> Any:
        running = asyncio.ensure_future(thread.call(lambda: "done"))
        await asyncio.sleep(0)
        thread.close()
        return await running

    assert in_thread(use) == "done"
    wait_until(lambda: threading.active_count() <= before, PATIENCE_S, "the thread ends")


def test_a_call_that_outlives_the_loop_does_no_harm() -> None:
    release, ended = threading.Event(), threading.Event()

    def wait() -> None:
        release.wait(PATIENCE_S)
        ended.set()

    async def leave_it() -> None:
        thread = AgentThread("left")
        running = asyncio.ensure_future(thread.call(wait))
        await asyncio.sleep(0)
        running.cancel()
        thread.close()

    asyncio.run(leave_it())
    release.set()
    assert ended.wait(PATIENCE_S)


def test_one_call_has_a_thread_of_its_own() -> None:
    async def use() -> set[int]:
        return {await call_in_thread(threading.get_ident), threading.get_ident()}

    assert len(asyncio.run(use())) == 2


def test_closed_threads_are_waited_for_and_others_are_not() -> None:
    begun, release = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        release.wait(PATIENCE_S)

    async def close_two_of_three() -> tuple[AgentThread, ...]:
        stuck, idle, closed = (AgentThread(name) for name in ("stuck", "idle", "closed"))
        call = asyncio.ensure_future(stuck.call(wait))
        await asyncio.to_thread(begun.wait, PATIENCE_S)
        await idle.call(int)
        stuck.close()
        closed.close()
        call.cancel()
        return stuck, idle, closed

    stuck, idle, closed = asyncio.run(close_two_of_three())
    join_closed(0.1)
    assert (stuck.is_alive, idle.is_alive, closed.is_alive) == (True, True, False)
    release.set()
    idle.close()
    join_closed(PATIENCE_S)
    assert (stuck.is_alive, idle.is_alive) == (False, False)
