"""The child's side of ``ProcessAgent``: opens one agent, or a judge, and runs its tasks.

The child is forked from a reaper that has imported this module but none of the user's code. The
agent's imports, threads and crashes therefore stay in the child.
"""

from __future__ import annotations

import asyncio
import codecs
import math
import os
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.config import mcp_universe_names
from agentpipe.config.agent_config import load_agent_config
from agentpipe.config.function_scope import FunctionScope
from agentpipe.config.paths import from_json
from agentpipe.connections import plugins
from agentpipe.core import masking
from agentpipe.core.caps import MAX_PROCESS_LINE_BYTES
from agentpipe.core.context import Context
from agentpipe.core.failures import error_record, is_infra, rate_limit
from agentpipe.core.json_values import checked_answer
from agentpipe.core.redaction import Redactor
from agentpipe.core.rollout import NO_TOKEN_IDS, OFF, REQUIRE, TOKENS, Rollout
from agentpipe.core.shortage import shortage_of
from agentpipe.core.task import Task
from agentpipe.core.trace import Tracer
from agentpipe.engines.base import Answer, open_engine
from agentpipe.engines.instance import Instance
from agentpipe.engines.process.judge import JudgeEngine
from agentpipe.errors import RunLimitExceeded

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from agentpipe.core.token_rows import Turn, Version
    from agentpipe.evaluation.evaluators import Evaluation


def preload() -> None:
    """Import what most children need, once, before any of them is forked.

    This must cover all our modules, because a collection's user may not have read access to our
    files.
    """
    plugins.load("agentpipe.engines", "python")
    codecs.lookup("utf-8-sig")  # For YAML.
    mcp_universe_names.names()


def serve(channel: socket.socket) -> None:
    """Serve requests until the worker closes its end."""
    asyncio.run(_ChildServer().serve(channel))


class _ChildServer:
    def __init__(self) -> None:
        self._instance: Instance | None = None

    async def serve(self, channel: socket.socket) -> None:
        reader, self._writer = await asyncio.open_connection(
            sock=channel, limit=MAX_PROCESS_LINE_BYTES
        )
        run: asyncio.Task[None] | None = None
        while line := await reader.readline():
            message = orjson.loads(line)
            if "open" in message:
                self._open(message["open"])
            elif "task" in message:
                asked = self._run(Task(**message["task"]), message["attempt"])
                run = asyncio.create_task(asked)
            elif run is not None:
                run.cancel()
        if run is not None:
            run.cancel()
            await asyncio.wait({run})
        if self._instance is not None:  # Its agent could be made.
            await self._instance.close()
        self._writer.close()

    def _open(self, opening: Mapping[str, Any]) -> None:
        try:
            context = _context(opening)
            masking.install(context.env.values())
            os.environ.update(context.env)
            self._record: dict[str, str] = opening.get("record", {"tokens": OFF})
            self._instance = _instance(opening, context)
        except BaseException as error:  # noqa: BLE001 - the user's module can raise anything
            self._send({"error": _failure(error)})
        else:
            self._send({"ready": True})

    async def _run(self, task: Task, attempt: int) -> None:
        tracer = _ForwardingTracer(self._send, self._record)
        tracer.attempt = attempt
        try:
            assert self._instance is not None
            with tracer.listening():
                answer = await self._instance.answer(task, math.inf)
            message: dict[str, Any] = {"done": _done(answer)}
        except BaseException as error:  # noqa: BLE001 - any exception is the run's outcome
            message = {"error": _failure(error)}
        self._send({**message, "usage": tracer.usage.to_dict()})

    def _send(self, message: Mapping[str, Any]) -> None:
        self._writer.write(orjson.dumps(message) + b"\n")


class _ForwardingTracer(Tracer):
    """Sends each span as it ends, so the worker keeps it if the child crashes."""

    def __init__(
        self, send: Callable[[Mapping[str, Any]], None], record: Mapping[str, str]
    ) -> None:
        super().__init__()
        # The tracer keeps no spans itself.
        self.heard = lambda _: send({"span": self.spans.pop()})
        if record["tokens"] != OFF:
            self.rollout = _ForwardingRollout(send, record)


class _ForwardingRollout(Rollout):
    """Sends each turn as it ends."""

    def __init__(
        self, send: Callable[[Mapping[str, Any]], None], record: Mapping[str, str]
    ) -> None:
        super().__init__(required=record["tokens"] == REQUIRE, by_tokens=record["mode"] == TOKENS)
        self._send = send

    def add(
        self,
        turn: Turn | None,
        *,
        engine: str,
        model: str,
        gap: str = NO_TOKEN_IDS,
        version: Version | None = None,  # noqa: ARG002 - children never ask a policy directly
    ) -> None:
        self._send({"turn": turn, "engine": engine, "model": model, "gap": gap})


def _context(opening: Mapping[str, Any]) -> Context:
    fields, public = opening["context"], opening["templates"]["public"]
    names = None if public is None else frozenset(public)
    return Context(fields["env"], fields["metadata"], names, base_url=opening["base_url"])


def _instance(opening: Mapping[str, Any], context: Context) -> Instance:
    if "functions" in opening:
        judge = JudgeEngine(FunctionScope.from_json(opening["functions"]))
        return Instance("evaluators", judge, context, in_thread=False)
    config = load_agent_config(from_json(opening["file"]))
    engine = open_engine(config)
    return Instance(config.name, engine, context, in_thread=engine.blocks)


def _done(answer: Any) -> dict[str, Any]:
    given = answer if isinstance(answer, Answer) else Answer(answer)
    value, _ = checked_answer(given.value)
    done = {"answer": value, "stop": given.stop}
    if given.evaluations is None:
        return done
    return {**done, "evaluations": [_judged(each) for each in given.evaluations]}


def _judged(evaluation: Evaluation) -> dict[str, Any]:
    cause = evaluation.cause
    # The exception of the user's function is the cause of our error about it.
    failed = None if cause is None else _failure(cause.__cause__ or cause)
    return {**evaluation.to_dict(), "broken": evaluation.broken, "cause": failed}


def _failure(error: BaseException) -> dict[str, Any]:
    """The error's record, redacted only where a text is cut.

    The worker redacts the rest, because it knows all secrets.
    """
    record, limit = error_record(error, Redactor(())), rate_limit(error)
    failed = {
        "limit": isinstance(error, RunLimitExceeded),
        "stop": error.stop if isinstance(error, RunLimitExceeded) else None,
        "infra": is_infra(error),
        "shortage": shortage_of(error),
        "retry_after_s": limit and limit.asked_s,
        "rate_limited": limit is not None and limit.of_credential,
    }
    return {**record, **failed}
