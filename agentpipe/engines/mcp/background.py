"""Tasks that no run owns: an MCP session may outlive the run that opened it."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine

_in_background: set[asyncio.Task[Any]] = set()


def in_background(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """A task without a run's context, which is kept until it has ended."""
    task = asyncio.create_task(work, context=contextvars.Context())
    _in_background.add(task)
    task.add_done_callback(_in_background.discard)
    return task
