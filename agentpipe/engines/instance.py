"""Instance: an agent object with its time limit, in its own thread if it would block."""

from __future__ import annotations

import asyncio
import inspect
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from agentpipe.core.agent_thread import AgentThread, RunContinues, call_in_thread, end_run
from agentpipe.core.loop_turns import begun, done_within
from agentpipe.engines.programs import Programs
from agentpipe.errors import AnswerError, TimeLimitExceeded

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from agentpipe.core.context import Context
    from agentpipe.core.task import Task
    from agentpipe.engines.base import Agent, Engine

# Time for a cancelled run to clean up before it is abandoned; an agent that needs more sets
# ``grace_s``.
CANCEL_GRACE_S = 1.0

log = logging.getLogger(__name__)


class Instance:
    """One agent, built with its first task; it runs one task at a time."""

    def __init__(self, name: str, engine: Engine, context: Context, *, in_thread: bool) -> None:
        self._name, self._engine, self._context = name, engine, context
        self._agent: Agent | None = None
        self._waits = False
        self._thread = AgentThread(name) if in_thread else None
        self._programs = Programs() if getattr(engine, "ends_programs", False) else None

    async def answer(self, task: Task, limit_s: float, context: Context | None = None) -> Any:
        """Return the agent's answer; the run is cancelled at the limit, or with this call.

        ``context`` applies to this run only.

        Raises:
            TimeLimitExceeded: It took longer than ``limit_s``.
            RunContinues: Replaces CancelledError if the run does not end within its grace.
            Exception: Whatever the agent raises; AnswerError for SystemExit and KeyboardInterrupt.
        """
        answering = self._answer(task, context or self._context)
        run = begun(answering, self._name)  # Without a name, asyncio would generate one per task.
        try:
            done = await done_within(run, limit_s)
        except asyncio.CancelledError:
            if not await self._end(run):
                raise RunContinues(self._is_over(run)) from None
            raise
        if done:
            return run.result()
        await self._end(run)
        raise TimeLimitExceeded(limit_s)

    async def close(self) -> None:
        """Close the agent within its grace; errors are logged, never raised."""
        closing = getattr(self._agent, "close", None)
        try:
            if closing is not None:
                async with asyncio.timeout(self._grace_s):
                    await self._call(closing, closing)
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - keeps the run's outcome
            log.warning("agent %s: close() failed: %s", self._name, type(error).__name__)
        finally:
            self._agent = None
            if self._thread is not None:
                self._thread.close()

    @property
    def _grace_s(self) -> float:
        grace_s: float = getattr(self._agent, "grace_s", CANCEL_GRACE_S)
        return grace_s

    async def _answer(self, task: Task, context: Context) -> Any:
        try:
            if self._agent is None:
                await self._open()
            assert self._agent is not None
            execute = self._agent.execute
            if not self._waits:
                return await self._in_thread(self._run_of(partial(execute, task, context)))
            if self._programs is None:
                return await execute(task, context)
            with self._programs:
                return await execute(task, context)
        except (SystemExit, KeyboardInterrupt) as error:
            # asyncio would stop the worker's event loop on these.
            raise AnswerError(f"the agent raised {type(error).__name__}") from error

    def _run_of(self, execute: Callable[[], Any]) -> Callable[[], Any]:
        programs = self._programs
        return execute if programs is None else lambda: programs.call(execute)

    async def _open(self) -> None:
        # A constructor can create clients bound to the loop, or connections bound to the thread, so
        # each agent is built where it will run.
        build = self._engine.build
        self._agent = await self._thread.call(build) if self._thread else build()
        opening = getattr(self._agent, "open", None)
        if opening is not None:
            await self._call(opening, opening)
        is_async = inspect.iscoroutinefunction(self._agent.execute)
        self._waits = is_async and self._thread is None

    async def _call(self, function: Callable[..., Any], call: Callable[[], Any]) -> Any:
        if self._thread is None and inspect.iscoroutinefunction(function):
            return await call()
        return await self._in_thread(call)

    def _in_thread(self, call: Callable[[], Any]) -> Coroutine[Any, Any, Any]:
        return call_in_thread(call) if self._thread is None else self._thread.call(call)

    def _is_over(self, run: asyncio.Future[Any]) -> Callable[[], bool]:
        """Return a function that reports whether the run's code has finally ended."""
        thread = self._thread
        return run.done if thread is None else lambda: not thread.is_busy

    async def _end(self, run: asyncio.Future[Any]) -> bool:
        if self._programs is not None:
            self._programs.end()  # Code waiting for its program sees it end, and continues.
        return await end_run(run, self._thread, self._grace_s, f"agent {self._name}")
