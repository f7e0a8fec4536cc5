"""TaskRun: one task, from its preparation to its cleanups, with exactly one reply."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any

from .evaluation import evaluate
from .failure import CancelledRunError, ServerLostError, error_record
from .monitor import Monitor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .agent import HostedAgent
    from .channel import ParentChannel

CLEANUP_LIMIT_S = 60.0


class TaskRun:
    """One run of a task.

    Attributes:
        ended: Set once the reply is sent.
        cancelled: Whether the parent cancelled the run.
    """

    def __init__(
        self,
        task: dict[str, Any],
        context: Any,
        channel: ParentChannel,
        judges_env: dict[str, str] | None = None,
    ) -> None:
        """``judges_env``: variables for evaluators, whose requests to models are not recorded."""
        self.monitor = Monitor()
        self.ended = threading.Event()
        self.cancelled = False
        self._config, self._context, self._channel = task, context, channel
        self._task: Any = None
        self._records: list[Any] = []
        self._environ = dict(os.environ)
        self._judges_env = judges_env or {}
        self._unclaimed = threading.Lock()
        self._working = False

    @property
    def interruptible(self) -> bool:
        """Whether a cancellation now would hit the task itself, not its cleanups."""
        return self._working

    def claim(self) -> bool:
        """Claim the right to end the run: for its own thread, or the thread that abandons it."""
        return self._unclaimed.acquire(blocking=False)

    async def work(self, start: Callable[[Any], Awaitable[HostedAgent]]) -> dict[str, Any]:
        """Run the task; return the ``done`` reply: answer, evaluations and usage.

        Raises:
            BaseException: The run failed or was cancelled.
        """
        self._working = True
        try:
            if self.cancelled:
                raise CancelledRunError("the run was cancelled before it began")
            return await self._work(start)
        except asyncio.CancelledError as error:
            getattr(asyncio.current_task(), "uncancel", int)()
            # If the run was not cancelled, anyio cancelled it because a connection broke.
            raise ServerLostError("the connection to an MCP server broke") from error
        finally:
            self._working = False

    async def end(self, reply: dict[str, Any]) -> None:
        """Run the cleanups, then send the reply; call ``claim`` first."""
        self.monitor.stop.set()  # A parallel member of a failed workflow can still call its LLM.
        cleaning = asyncio.ensure_future(self._clean())
        await asyncio.wait({cleaning}, timeout=CLEANUP_LIMIT_S)
        cleaning.cancel()
        self._restore_environ()
        self._channel.send(reply)
        self.ended.set()

    async def _work(self, start: Callable[[Any], Awaitable[HostedAgent]]) -> dict[str, Any]:
        self.monitor.begin()
        if answered := self._config.get("answered"):
            return await self._judged(answered["answer"])
        self._task = self._new_task()
        await self._prepare()
        agent = await start(self._servers())
        self.monitor.raise_if_cancelled()  # Closing an old agent can swallow a cancellation.
        agent.begin(self._config.get("seed"))
        answer = await self._answer(agent)
        usage = self.monitor.usage.to_dict()
        return {**await self._judged(answer), "usage": usage}

    async def _judged(self, answer: str) -> dict[str, Any]:
        os.environ.update(self._judges_env)
        configs = self._config.get("evaluators") or []
        evaluations = await evaluate(configs, answer, self._context, self.monitor)
        return {"answer": answer, "evaluations": evaluations}

    def _new_task(self) -> Any:
        """Create MCP-Universe's task without evaluators: an unknown op must not fail the task."""
        from mcpuniverse.benchmark.task import Task, TaskConfig

        known = {name: self._config[name] for name in TaskConfig.model_fields if self._has(name)}
        return Task({**known, "evaluators": []}, context=self._context)

    def _has(self, name: str) -> bool:
        return self._config.get(name) is not None

    async def _prepare(self) -> None:
        from mcpuniverse.benchmark.task import PREPARE_FUNCTIONS

        names = [each.get("prepare_func") for each in self._config.get("prepares") or []]
        unknown = [name for name in names if name not in PREPARE_FUNCTIONS]
        if unknown:
            raise ValueError(f"prepares: MCP-Universe has no function {unknown[0]!r}")
        await self._task.prepare()

    def _servers(self) -> list[dict[str, Any]] | None:
        return list(self._task.get_mcp_servers()) if self._task.use_specified_server() else None

    async def _answer(self, agent: HostedAgent) -> str:
        """The answer as a string, in the same form as in MCP-Universe's own pipeline."""
        from mcpuniverse.tracer import Tracer

        response = await agent.main.execute(
            self._task.get_question(),
            output_format=self._task.get_output_format(),
            tracer=Tracer(collector=self),
        )
        self.monitor.check()
        if response.response is None:
            raise ValueError("the agent gave no answer")
        answer: str = response.get_response_str()
        return answer

    async def _clean(self) -> None:
        if self._task is not None:
            await self._task.reset(self._records)

    def _restore_environ(self) -> None:
        """Undo changes to the environment that ``prepares`` made for this task."""
        for name in os.environ.keys() - self._environ.keys():
            with contextlib.suppress(KeyError):
                del os.environ[name]
        os.environ.update(self._environ)

    # The interface of a collector for MCP-Universe's tracer.

    def insert(self, record: Any) -> None:
        """Keep a finished span, and send it to the parent."""
        self._records.append(record)
        if not self.ended.is_set():
            records = [vars(each) for each in record.records]
            self._channel.send({"span": {**vars(record), "records": records}})

    def get(self, trace_id: str) -> list[Any]:
        """The finished spans of a trace."""
        return [record for record in self._records if record.trace_id == trace_id]


async def settled(run: TaskRun, start: Callable[[Any], Awaitable[HostedAgent]]) -> dict[str, Any]:
    """Run a task; return its reply, ``done`` or ``error``."""
    try:
        reply = {"done": await run.work(start)}
    except BaseException as error:  # noqa: BLE001 - agents can even exit
        reply = {"error": error_record(error)}
    if run.cancelled:  # Overrides errors of the connections that the cancellation cut.
        reply = {"error": error_record(CancelledRunError("the run was cancelled"))}
    return reply
