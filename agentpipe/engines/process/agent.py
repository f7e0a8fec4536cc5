"""ChildAgent: an agent that lives in a process of its own, seen from the worker.

The two talk in JSON, a line each, over a socket that nothing else writes to. The worker says
``{"open": {...}}``, ``{"task": {...}}`` and ``{"cancel": true}``; the child ``{"ready": true}``,
``{"span": {...}}`` as each span ends, and then ``{"done": {"answer", "evaluations", "usage"}}``
or ``{"error": {"type", "message", "traceback", "infra", "retry_after_s"}}``, with ``usage``
beside it where it is known.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.core.logs import Bound, bound, printed
from agentpipe.core.trace import record_spans, record_usage
from agentpipe.engines.base import Judged
from agentpipe.engines.process.pipes import Pipe
from agentpipe.errors import AgentCrashed, AgentFailed, AgentpipeError
from agentpipe.evaluation.evaluators import Evaluation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.core.context import Context
    from agentpipe.core.task import Task
    from agentpipe.engines.process.launcher import Child, Nursery

MAX_LINE_BYTES = 256 * 1024 * 1024
MAX_PRINTED_BYTES = 10_000
END_GRACE_S = 1.0


class ChildAgent:
    """Runs tasks in a child, one at a time; the child is started with the first and kept.

    Attributes:
        grace_s: How long a run that was told to end may take, before its child is killed.
    """

    def __init__(
        self,
        nursery: Nursery,
        opening: Mapping[str, Any],
        env: Mapping[str, str],
        *,
        grace_s: float = END_GRACE_S,
        cwd: str | None = None,
    ) -> None:
        self.grace_s = grace_s + END_GRACE_S
        self._nursery, self._opening, self._env = nursery, opening, env
        self._child_grace_s, self._cwd = grace_s, cwd
        self._child: Child | None = None
        self._run: Bound | None = None

    async def execute(self, task: Task, context: Context) -> Any:
        """The child's answer, with its evaluations where it made them.

        Raises:
            AgentFailed: It told of a failure.
            AgentCrashed: It ended without a word.
        """
        self._run = bound.get()
        if self._child is None:
            await self._start(context)
        await self._say({"task": task})
        try:
            return await self._outcome()
        except asyncio.CancelledError:
            await self._cancel()
            raise

    async def close(self) -> None:
        """Let the child end by itself, or else end it."""
        if self._child is None:
            return
        child, self._child = self._child, None
        self._writer.close()  # It reads its end.
        try:
            with suppress(TimeoutError, AgentpipeError):
                async with asyncio.timeout(self._child_grace_s):
                    await child.wait()
        finally:
            child.end()
            self._printing.cancel()

    async def _start(self, context: Context) -> None:
        ours, its = socket.socketpair()
        out_of_it, out = os.pipe()
        env = {**self._env, **context.env}
        files = (its.detach(), out, os.dup(out))
        try:
            self._child = await self._nursery.start(None, env, files, self._cwd)
        except BaseException:
            ours.close()
            os.close(out_of_it)
            raise
        self._reader, self._writer = await asyncio.open_connection(sock=ours, limit=MAX_LINE_BYTES)
        self._printing = asyncio.create_task(self._pass_on(out_of_it))
        secrets = {"env": dict(context.env), "metadata": dict(context.metadata)}
        await self._say({"open": {**self._opening, "context": secrets}})
        await self._outcome()

    async def _say(self, message: Mapping[str, Any]) -> None:
        try:
            self._writer.write(orjson.dumps(message) + b"\n")
            await self._writer.drain()
        except ConnectionError as error:
            raise await self._crash() from error

    async def _outcome(self) -> Any:
        while True:
            message = await self._hear()
            record_usage(message.get("usage") or {})
            if "span" in message:
                record_spans([message["span"]])
            elif "error" in message:
                raise _failure(message["error"])
            elif "done" in message:
                return _done(message["done"])
            elif "ready" in message:
                return None

    async def _hear(self) -> dict[str, Any]:
        try:
            line = await self._reader.readline()
            message = orjson.loads(line) if line else None
        except ConnectionError:
            message = None
        except (ValueError, orjson.JSONDecodeError) as error:
            raise AgentFailed(f"the agent's process told no JSON, or too much: {error}") from error
        if not isinstance(message, dict):
            raise await self._crash()
        return message

    async def _crash(self) -> AgentCrashed:
        assert self._child is not None
        self._child.end()  # It may live on without its socket.
        status = await self._child.wait()
        how = f"was killed by signal {-status}" if status < 0 else f"ended with {status}"
        return AgentCrashed(f"the agent's process {how} in the middle of a run")

    async def _cancel(self) -> None:
        """Have the child clean up, then kill it in any case: nothing of the run may go on."""
        try:
            with suppress(TimeoutError, AgentpipeError):
                async with asyncio.timeout(self._child_grace_s):
                    await self._say({"cancel": True})
                    await self._outcome()
        finally:
            assert self._child is not None
            self._child.end()

    async def _pass_on(self, number: int) -> None:
        """Log what the child prints, line by line, as told in the run that it is at."""
        async with Pipe(number, MAX_PRINTED_BYTES) as reader:
            while line := await _line(reader):
                text = line.decode(errors="replace").rstrip("\r\n")
                printed.info("%s", text, extra={"bound": self._run})


def _failure(error: Mapping[str, Any]) -> AgentFailed:
    return AgentFailed(
        str(error.get("message")),
        kind=str(error.get("type")),
        traceback=error.get("traceback"),
        infra=bool(error.get("infra")),
        retry_after_s=error.get("retry_after_s"),
    )


def _done(done: Mapping[str, Any]) -> Any:
    record_usage(done.get("usage") or {})
    evaluations = done.get("evaluations")
    if evaluations is None:
        return done.get("answer")
    return Judged(done.get("answer"), tuple(Evaluation(**each) for each in evaluations))


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil()
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError:
        return await reader.read(MAX_PRINTED_BYTES) + b"\n"
