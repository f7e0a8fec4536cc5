"""ProcessAgent: the worker's side of an agent that runs in its own process.

Both sides send JSON, one object per line, over a socket that nothing else writes to. Requests:

- ``{"open": {...}}``
- ``{"task": {...}, "attempt"}``
- ``{"cancel": true}``

Replies, each with ``usage`` if it is known:

- ``{"ready": true}``
- ``{"span": {...}}`` as each span ends
- ``{"turn": {...}, "engine", "model"}`` for a response's token ids
- ``{"done": {"answer", "stop", "evaluations"}}``, or
- ``{"error": {"type", "message", "traceback", "limit", "stop", "infra", "permanent", "shortage",
  "retry_after_s", "rate_limited", "headers"}}``
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.core import trace
from agentpipe.core.account import variables_of
from agentpipe.core.caps import MAX_PROCESS_LINE_BYTES
from agentpipe.core.credential_names import CREDENTIAL_NAMES
from agentpipe.core.failures import MAX_ERROR_CHARS
from agentpipe.core.logs import Bound, bound, printed
from agentpipe.core.masking import masked, shorten
from agentpipe.core.outside import read_shallow_json
from agentpipe.core.rollout import NO_TOKEN_IDS, recorder
from agentpipe.core.token_rows import Turn
from agentpipe.core.trace import record_spans, record_usage
from agentpipe.engines.base import Answer
from agentpipe.engines.process.launcher import start_failure
from agentpipe.engines.process.pipes import PipeReader
from agentpipe.errors import AgentCrashed, AgentFailed, AgentpipeError, RunLimitExceeded
from agentpipe.evaluation.evaluators import Evaluation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.core.context import Context
    from agentpipe.core.task import Task
    from agentpipe.engines.process.launcher import Child, Launcher

# A printed line over the first limit is logged in parts; over the second, only its beginning is.
MAX_PRINTED_CHARS, MAX_PRINTED_BYTES = 10_000, 256 * 1024
END_GRACE_S = 1.0


class ProcessAgent:
    """Runs tasks in a child process, one at a time; it starts with the first task and stays.

    Attributes:
        grace_s: Time for a cancelled run to clean up and for its child to be killed.
        more: Extra fields for the next child's ``open`` request.
    """

    def __init__(
        self,
        launcher: Launcher,
        opening: Mapping[str, Any],
        env: Mapping[str, str],
        *,
        grace_s: float = END_GRACE_S,
        cwd: str | None = None,
        what: str = "the agent's process",
    ) -> None:
        self.grace_s = grace_s + END_GRACE_S
        self._launcher, self._opening, self._env = launcher, opening, env
        self._child_grace_s, self._cwd, self._what = grace_s, cwd, what
        self._child: Child | None = None
        self._run: Bound | None = None
        self._base_url = ""
        self.more: Mapping[str, Any] = {}

    async def execute(self, task: Task, context: Context) -> Any:
        """Return the child's answer, with evaluations if it made them.

        If the context points to another gateway, a new child is started, because the clients in a
        child keep their first URL.

        Raises:
            AgentFailed: The child reported a failure, or cannot be started.
            RunLimitExceeded: The child reported that the run reached a limit.
            AgentCrashed: The child ended without a reply.
        """
        self._run = bound.get()
        if context.base_url != self._base_url:
            await self.close()
        if self._child is None:
            await self._start(context)
        self._base_url = context.base_url
        await self._send({"task": task, "attempt": trace.attempt()})
        try:
            return await self._outcome()
        except asyncio.CancelledError:
            await self._cancel()
            raise

    async def close(self) -> None:
        """Let the child end by itself; kill it after the grace."""
        if self._child is None:
            return
        child, self._child = self._child, None
        self._writer.close()  # The child ends at the end of its input.
        try:
            with suppress(TimeoutError, AgentpipeError):
                async with asyncio.timeout(self._child_grace_s):
                    await child.wait()
        finally:
            child.end()
            self._printing.cancel()

    async def _start(self, context: Context) -> None:
        ours, printed_out, files = _channel()
        try:
            env = {**self._env, **variables_of(context.account)}
            start = self._launcher.start(None, env, files, self._cwd, context.account)
            self._child = await start
        except BaseException as error:
            ours.close()
            os.close(printed_out)
            if isinstance(error, OSError):
                raise start_failure(self._what, error) from error
            raise
        self._reader, self._writer = await asyncio.open_connection(
            sock=ours, limit=MAX_PROCESS_LINE_BYTES
        )
        self._printing = asyncio.create_task(self._log_output(printed_out))
        # Not sent through the reaper, because its other children have copies of its memory.
        await self._send({"open": {**self._opening, **self.more, **_opening_of(context)}})
        await self._outcome()

    async def _send(self, message: Mapping[str, Any]) -> None:
        try:
            self._writer.write(orjson.dumps(message) + b"\n")
            await self._writer.drain()
        except ConnectionError as error:
            raise await self._crash() from error

    async def _outcome(self) -> Any:
        while True:
            message = await self._receive()
            record_usage(message.get("usage") or {})
            if "span" in message:
                record_spans([message["span"]])
            elif "turn" in message:
                _record_turn(message)
            elif "error" in message:
                raise failure_of(message["error"])
            elif "done" in message:
                return _answer(message["done"])
            elif "ready" in message:
                return None

    async def _receive(self) -> dict[str, Any]:
        try:
            line = await self._reader.readline()
            message = read_shallow_json(line) if line else None
        except ConnectionError:
            message = None
        except ValueError as error:  # orjson's errors are ValueErrors, too.
            raise AgentFailed(
                f"{self._what} sent invalid JSON, or a line above "
                f"{MAX_PROCESS_LINE_BYTES:,} bytes: {error}"
            ) from error
        if not isinstance(message, dict):
            raise await self._crash()
        return message

    async def _crash(self) -> AgentCrashed:
        assert self._child is not None
        self._child.end()  # It can still be running without its socket.
        status = await self._child.wait()
        how = f"was killed by signal {-status}" if status < 0 else f"ended with {status}"
        return AgentCrashed(f"{self._what} {how} during a run")

    async def _cancel(self) -> None:
        """Let the child clean up, then always kill it: nothing of the run may continue."""
        try:
            with suppress(TimeoutError, AgentpipeError):
                async with asyncio.timeout(self._child_grace_s):
                    await self._send({"cancel": True})
                    await self._outcome()
        finally:
            assert self._child is not None
            self._child.end()

    async def _log_output(self, number: int) -> None:
        """Log each line that the child prints, with the run that it belongs to."""
        async with PipeReader(number, MAX_PRINTED_BYTES) as reader:
            while line := await _line(reader):
                for part in _parts(line):
                    printed.info("%s", part, extra={"bound": self._run})


def _record_turn(message: Mapping[str, Any]) -> None:
    rollout, turn = recorder(), message["turn"]
    if rollout is not None:
        given = None if turn is None else Turn(**turn)
        gap = message.get("gap", NO_TOKEN_IDS)
        rollout.add(given, engine=message["engine"], model=message["model"], gap=gap)


def failure_of(error: Mapping[str, Any]) -> AgentpipeError:
    """Convert the error that the child reported to an error of the run."""
    if error.get("limit") is True:
        stop = str(error.get("stop") or "turns")
        return RunLimitExceeded(str(error.get("message")), stop=stop)
    return AgentFailed(
        str(error.get("message")),
        kind=str(error.get("type")),
        traceback=error.get("traceback"),
        infra=bool(error.get("infra")),
        retry_after_s=error.get("retry_after_s"),
        permanent=error.get("permanent") is True,
        shortage=str(error.get("shortage") or ""),
        rate_limited=error.get("rate_limited") is True,
        headers=error.get("headers"),
    )


def _opening_of(context: Context) -> dict[str, Any]:
    """The context for the child, and the names that tasks can read in it."""
    public = None if context.public is None else sorted(context.public)
    return {
        "context": {"env": dict(context.env), "metadata": dict(context.metadata)},
        "base_url": context.base_url,
        "templates": {
            "public": public,
            "readable": list(context.readable),
            "credentials": CREDENTIAL_NAMES if public is None else None,
        },
    }


def _channel() -> tuple[socket.socket, int, tuple[int, int, int]]:
    """Our socket to a child, our end of its output pipe, and the child's files; all or none."""
    ours, theirs = socket.socketpair()
    opened: list[int] = []
    try:
        opened += os.pipe()
        opened.append(os.dup(opened[1]))
    except OSError:
        ours.close()
        theirs.close()
        for number in opened:
            os.close(number)
        raise
    printed_out, out, copy = opened
    return ours, printed_out, (theirs.detach(), out, copy)


def _answer(done: Mapping[str, Any]) -> Answer:
    record_usage(done.get("usage") or {})
    evaluations = done.get("evaluations")
    if evaluations is not None:
        evaluations = tuple(map(_evaluation, evaluations))
    return Answer(done.get("answer"), done.get("stop"), evaluations)


def _evaluation(fields: dict[str, Any]) -> Evaluation:
    infra, cause = fields.pop("infra", False), fields.pop("cause", None)
    fields |= {name: shorten(fields[name], MAX_ERROR_CHARS) for name in ("reason", "error")}
    if cause is not None:
        return Evaluation(**fields, cause=failure_of(cause))
    failed = AgentFailed(fields["error"], kind="EvaluatorFailed", infra=True) if infra else None
    return Evaluation(**fields, cause=failed)


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil()
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError:
        beginning = await reader.read(MAX_PRINTED_BYTES)
    while not await _rest(reader):
        pass
    return beginning


async def _rest(reader: asyncio.StreamReader) -> bool:
    """Skip the rest of a long line; return whether its end was reached."""
    try:
        await reader.readuntil()
    except asyncio.IncompleteReadError:
        return True
    except asyncio.LimitOverrunError:
        await reader.read(MAX_PRINTED_BYTES)
        return False
    return True


def _parts(line: bytes) -> list[str]:
    """A line for the log, masked before it is split."""
    text = line.decode(errors="replace")
    if not text.endswith("\n") and len(line) >= MAX_PRINTED_BYTES:
        return [shorten(text, MAX_PRINTED_CHARS, "... (the rest of the line is left out)")]
    text = text.rstrip("\r\n")
    if len(text) <= MAX_PRINTED_CHARS:
        return [text]
    text = masked(text)
    return [
        text[start : start + MAX_PRINTED_CHARS] for start in range(0, len(text), MAX_PRINTED_CHARS)
    ]
