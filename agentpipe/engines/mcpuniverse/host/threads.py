"""Threads that nobody waits for at the end, and what frees one that is stuck in a system call."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import signal
import socket
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

INTERNET = (socket.AF_INET, socket.AF_INET6)


async def in_thread(function: Callable[[], Any]) -> Any:
    """Call ``function`` in a thread of its own.

    asyncio's are few, and each of them is waited for when the process ends.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            settle, outcome = _succeed, context.run(function)
        except BaseException as error:  # noqa: BLE001 - goes to who awaits
            settle, outcome = _fail, error
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody awaits.
            loop.call_soon_threadsafe(settle, done, outcome)

    threading.Thread(target=run, daemon=True, name="llm").start()
    return await done


def _succeed(done: asyncio.Future[Any], value: Any) -> None:
    if not done.done():
        done.set_result(value)


def _fail(done: asyncio.Future[Any], error: BaseException) -> None:
    if not done.done():
        done.set_exception(error)


async def bounded(limit_s: float, work: Awaitable[Any]) -> None:
    """Await in this task, for anyio's scopes must be left where they were entered.

    What it raises is gone: it is for closing things whose run has had its outcome.
    """
    task = asyncio.current_task()
    assert task is not None
    timer = asyncio.get_running_loop().call_later(limit_s, task.cancel)
    try:
        await work
    except (Exception, asyncio.CancelledError):  # noqa: BLE001
        getattr(task, "uncancel", int)()
    finally:
        timer.cancel()


def cut_connections() -> None:
    """Shut down each internet connection of this process, so that reads from them return.

    A child is one agent, and its parent talks to it over another kind of socket.
    """
    for number in _open_files():
        with contextlib.suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            with socket.socket(fileno=os.dup(number)) as connection:
                if connection.family in INTERNET:
                    connection.shutdown(socket.SHUT_RDWR)


def _open_files() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/dev/fd")]
    except OSError:
        return []


def end_children() -> None:
    """Tell the processes that this one has started to end: an agent's MCP servers."""
    for child in _children():
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGTERM)


def _children() -> Iterator[int]:
    for listing in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError, ValueError):
            yield from map(int, listing.read_text().split())
