"""Background: the worker's own tasks, on an event loop shared with runs.

An MCP session, a gateway or a worker's shutdown outlives the run whose code started it. That run
must neither own the task nor be able to cancel it.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine

_is_own: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "agentpipe_background", default=False
)
_in_background: set[asyncio.Task[Any]] = set()


def in_background(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Start a task outside any run's context; it is referenced until it ends."""
    context = contextvars.Context()
    context.run(_is_own.set, True)
    task = asyncio.create_task(work, context=context)
    _in_background.add(task)
    task.add_done_callback(_in_background.discard)
    return task


def cancel_background(task: asyncio.Task[Any]) -> None:
    """Cancel a task on behalf of the worker, whatever context the caller is in."""
    contextvars.Context().run(task.cancel)


def is_background(context: contextvars.Context | None) -> bool:
    """Whether tasks with this context (default: the current one) are the worker's own."""
    return _is_own.get() if context is None else context.get(_is_own, False)
