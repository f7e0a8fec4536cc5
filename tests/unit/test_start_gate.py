"""The gate for servers that start: a limit, runs first, and no turn is lost."""

from __future__ import annotations

import asyncio
import threading

from agentpipe.engines.mcp.start_gate import StartGate


def test_no_more_than_the_limit_pass_at_once() -> None:
    async def run() -> int:
        gate, inside, most = StartGate(2), 0, 0

        async def start() -> None:
            nonlocal inside, most
            async with gate.turn():
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0)
                inside -= 1

        await asyncio.gather(*(start() for _ in range(20)))
        return most

    assert asyncio.run(run()) == 2


def test_those_that_start_ahead_wait_for_the_runs() -> None:
    async def run() -> list[str]:
        gate, order = StartGate(1), list[str]()

        async def start(name: str, *, ahead: bool) -> None:
            async with gate.turn(ahead=ahead):
                order.append(name)

        async with gate.turn():
            waiting = [asyncio.create_task(start("ahead", ahead=True))]
            await asyncio.sleep(0)
            waiting += [asyncio.create_task(start("run", ahead=False)) for _ in range(2)]
            await asyncio.sleep(0)
        await asyncio.gather(*waiting)
        return order

    assert asyncio.run(run()) == ["run", "run", "ahead"]


def test_a_turn_of_one_that_is_cancelled_goes_to_the_next() -> None:
    async def run() -> None:
        gate = StartGate(1)

        async def start() -> None:
            async with gate.turn():
                await asyncio.sleep(0)

        for steps in range(6):  # Cancelled while waiting, at its turn, or inside.
            async with gate.turn():
                waiting = asyncio.create_task(start())
                await asyncio.sleep(0)
            for _ in range(steps):
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait({waiting})
            async with asyncio.timeout(5):
                await start()

    asyncio.run(run())


def test_loops_of_several_threads_share_it() -> None:
    gate, inside, most = StartGate(1), list[int](), list[int]()

    async def start() -> None:
        async with gate.turn():
            inside.append(1)
            most.append(len(inside))
            await asyncio.sleep(0)
            inside.pop()

    async def some() -> None:
        await asyncio.gather(*(start() for _ in range(20)))

    threads = [threading.Thread(target=asyncio.run, args=(some(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(most) == 60
    assert max(most) == 1
