"""What a child does: one agent's runs, as the worker's ``ChildAgent`` asks for them.

It is a fork of a warden that has imported this module and no code of the user's: the agent's
own imports, its threads and its crashes stay in the child.
"""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.config.agent_config import load_agent_config
from agentpipe.connections import plugins
from agentpipe.core.context import Context
from agentpipe.core.failures import error_record, hold_s, is_infra
from agentpipe.core.json_values import answer_text
from agentpipe.core.redaction import Redactor
from agentpipe.core.task import Task
from agentpipe.core.trace import Tracer
from agentpipe.engines.base import Judged, open_engine
from agentpipe.engines.instance import Instance
from agentpipe.engines.process.agent import MAX_LINE_BYTES

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping


def preload() -> None:
    """Import what most children need, before any of them is forked; this module is the rest."""
    plugins.load("agentpipe.engines", "python")


def serve(channel: socket.socket) -> None:
    """Answer until the worker closes its end."""
    asyncio.run(_Server().serve(channel))


class _Server:
    """One agent, which does one task at a time."""

    async def serve(self, channel: socket.socket) -> None:
        reader, self._writer = await asyncio.open_connection(sock=channel, limit=MAX_LINE_BYTES)
        run: asyncio.Task[None] | None = None
        while line := await reader.readline():
            message = orjson.loads(line)
            if "open" in message:
                self._attempt(partial(self._open, message["open"]))
            elif "task" in message:
                run = asyncio.create_task(self._run(Task(**message["task"])))
            elif run is not None:
                run.cancel()
        if run is not None:
            run.cancel()
            await asyncio.wait({run})
        await self._instance.close()

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except BaseException as error:  # noqa: BLE001 - the user's module may raise anything
            self._tell({"error": _told(error)})
        else:
            self._tell({"ready": True})

    def _open(self, opening: Mapping[str, Any]) -> None:
        config = load_agent_config(opening["file"])
        engine = open_engine(config)
        context = Context(opening["context"]["env"], opening["context"]["metadata"])
        self._instance = Instance(config.name, engine, context, in_thread=engine.blocks)

    async def _run(self, task: Task) -> None:
        tracer = _ToldTracer(self._tell)
        try:
            with tracer.listening():
                answer = await self._instance.answer(task, math.inf)
            message: dict[str, Any] = {"done": _done(answer)}
        except BaseException as error:  # noqa: BLE001 - all of it is the run's outcome
            message = {"error": _told(error)}
        self._tell({**message, "usage": tracer.usage.to_dict()})

    def _tell(self, message: Mapping[str, Any]) -> None:
        self._writer.write(orjson.dumps(message) + b"\n")


class _ToldTracer(Tracer):
    """Tells of each span as it ends, so that the worker has them though the child crash."""

    def __init__(self, tell: Callable[[Mapping[str, Any]], None]) -> None:
        super().__init__()
        self._tell = tell

    def take(self, span: Mapping[str, Any]) -> None:
        super().take(span)
        self._tell({"span": self.spans.pop()})


def _done(answer: Any) -> dict[str, Any]:
    if isinstance(answer, Judged):
        evaluations = [{**each.to_dict(), "broken": each.broken} for each in answer.evaluations]
        return {"answer": answer.answer, "evaluations": evaluations}
    answer_text(answer)  # Says better than the encoder what is no JSON.
    return {"answer": answer}


def _told(error: BaseException) -> dict[str, Any]:
    """The worker redacts it: it knows the secrets, and what else is one."""
    record = error_record(error, Redactor(()))
    return {**record, "infra": is_infra(error), "retry_after_s": hold_s(error)}
