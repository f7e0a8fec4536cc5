"""Background: tasks of the worker's own, on an event loop that it shares with runs.

An MCP session, a gateway or the end of a worker outlives the run whose code began it: that run must
neither own it nor be able to cancel it.
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
    """A task without a run's context, which is kept until it has ended."""
    context = contextvars.Context()
    context.run(_is_own.set, True)
    task = asyncio.create_task(work, context=context)
    _in_background.add(task)
    task.add_done_callback(_in_background.discard)
    return task


def cancel_background(task: asyncio.Task[Any]) -> None:
    """Cancel one for the worker, whichever run's context the caller is in."""
    contextvars.Context().run(task.cancel)


def is_background(context: contextvars.Context | None) -> bool:
    """Whether tasks with this context, by default the current one, are the worker's own."""
    return _is_own.get() if context is None else context.get(_is_own, False)
