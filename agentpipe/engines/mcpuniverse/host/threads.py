"""Daemon threads, bounded closing, and ways to free a thread stuck in a system call."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import signal
import socket
import stat
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

INTERNET = (socket.AF_INET, socket.AF_INET6)


async def in_thread(function: Callable[[], Any]) -> Any:
    """Call ``function`` in a daemon thread.

    asyncio's own threads are few, and the process waits for each of them when it ends.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            settle = partial(_succeed, done, context.run(function))
        except BaseException as error:  # noqa: BLE001 - raised in the caller
            settle = partial(_fail, done, error)
        with contextlib.suppress(RuntimeError):  # The loop is closed.
            loop.call_soon_threadsafe(settle)

    threading.Thread(target=run, daemon=True, name="llm").start()
    return await done


def _succeed(done: asyncio.Future[Any], value: Any) -> None:
    if not done.done():
        done.set_result(value)


def _fail(done: asyncio.Future[Any], error: BaseException) -> None:
    if not done.done():
        done.set_exception(error)


async def bounded(limit_s: float, work: Awaitable[Any]) -> None:
    """Await ``work`` in this task: anyio's scopes must be left in the task that entered them.

    Errors are dropped, because the runs concerned already have their outcome.
    """
    task = asyncio.current_task()
    assert task is not None
    timer = asyncio.get_running_loop().call_later(limit_s, task.cancel)
    try:
        await work
    except (Exception, asyncio.CancelledError):  # noqa: BLE001 - dropped, see the docstring
        getattr(task, "uncancel", int)()
    finally:
        timer.cancel()


class Connections:
    """The internet connections that this process opened.

    All of them belong to the agent: the parent's socket is of another kind.
    """

    def __init__(self) -> None:
        self._inherited = {inode for _, inode in _sockets()}

    def cut(self) -> None:
        """Shut the connections down, so that blocked reads return."""
        for number, inode in _sockets():
            if inode in self._inherited:
                continue
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as connection:
                if connection.family in INTERNET:
                    connection.shutdown(socket.SHUT_RDWR)


def _sockets() -> Iterator[tuple[int, int]]:
    """Yield each socket's descriptor and inode."""
    for file in list(Path("/dev/fd").iterdir()):
        with contextlib.suppress(OSError):  # The listing's own descriptor is already closed.
            found = os.fstat(int(file.name))
            if stat.S_ISSOCK(found.st_mode):
                yield int(file.name), found.st_ino


def end_children() -> None:
    """Send SIGTERM to this process's children: the agent's MCP servers."""
    for child in _children():
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGTERM)


def _children() -> Iterator[int]:
    for listing in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError, ValueError):
            yield from map(int, listing.read_text().split())
