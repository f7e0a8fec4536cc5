"""Programs that a run starts end with the run; those of its neighbours continue."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from agentpipe.core.processes import is_alive
from agentpipe.engines.process.process_tree import children_of
from agentpipe.engines.programs import Programs
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the children")
SLEEP = ("sleep", "1000")


@pytest.fixture(autouse=True)
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    found: list[subprocess.Popen[bytes]] = []
    yield found
    for each in found:
        each.kill()
        each.wait()


def ended(pid: int) -> bool:
    return not is_alive(pid)


def test_a_program_ends_with_the_function_that_started_it(
    started: list[subprocess.Popen[bytes]],
) -> None:
    started.append(subprocess.Popen(SLEEP))

    def run() -> None:
        started.append(subprocess.Popen(SLEEP))
        subprocess.run(["true"], check=True)
        started.append(subprocess.Popen(["sh", "-c", "sleep 1000 & wait"]))
        below.extend(wait_until(lambda: children_of(started[-1].pid), 10, "it has a child"))
        started.append(subprocess.Popen(SLEEP))
        raise ZeroDivisionError

    below: list[int] = []
    with pytest.raises(ZeroDivisionError):
        Programs().call(run)
    for each in started[1:]:
        assert each.wait(10) < 0
    wait_until(lambda: ended(below[0]), 10, "and what it started")
    assert started[0].poll() is None


def test_neighbours_on_one_loop_end_their_own() -> None:
    asyncio.run(_neighbours())


async def _neighbours() -> None:
    go, all_of_them = asyncio.Event(), list[asyncio.subprocess.Process]()

    async def started() -> asyncio.subprocess.Process:
        all_of_them.append(await asyncio.create_subprocess_exec(*SLEEP))
        return all_of_them[-1]

    async def one() -> int:
        program = await started()
        await asyncio.sleep(0)
        second = await started()
        assert not ended(program.pid)
        assert not ended(second.pid)
        return program.pid

    async def other() -> int:
        program = await started()
        await go.wait()
        assert not ended(program.pid)
        return program.pid

    longer = asyncio.ensure_future(Programs().call(other))
    first = await asyncio.gather(*[Programs().call(one) for _ in range(3)])
    await asyncio.to_thread(wait_until, lambda: all(map(ended, first)), 10, "theirs end")
    go.set()
    last = await longer
    await asyncio.to_thread(wait_until, lambda: ended(last), 10, "its own ends")
    for each in all_of_them:  # asyncio can hear of the exit late, and warns if it has not.
        await each.wait()


def test_threads_end_their_own(started: list[subprocess.Popen[bytes]]) -> None:
    begun, go = threading.Barrier(5), threading.Event()

    def run(last: int) -> None:
        mine = [subprocess.Popen(SLEEP) for _ in range(3)]
        started.extend(mine)
        begun.wait(10)
        if last:
            go.wait(10)
        assert [each.poll() for each in mine] == [None] * 3

    threads = [
        threading.Thread(target=Programs().call, args=(lambda n=n: run(n),)) for n in (0, 0, 0, 1)
    ]
    for thread in threads:
        thread.start()
    begun.wait(10)
    for thread in threads[:3]:
        thread.join()
    wait_until(lambda: sum(each.poll() is None for each in started) == 3, 10, "theirs end")
    go.set()
    threads[3].join()
    for each in started:
        assert each.wait(10) < 0


def test_a_pool_of_forks_goes_on() -> None:
    def run() -> int:
        pid = os.fork()
        if not pid:
            with suppress(KeyboardInterrupt):
                threading.Event().wait()
            os._exit(0)
        return pid

    pid: int = Programs().call(run)
    try:
        assert not ended(pid)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
