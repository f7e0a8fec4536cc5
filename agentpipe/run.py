"""Runner: runs the tasks of one agent in this process, within its limits, and evaluates them."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.errors import AnswerError, TimeLimitExceeded
from agentpipe.evaluate import Evaluation, evaluate
from agentpipe.thread import AgentThread, call_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.agent import Agent, Engine
    from agentpipe.collection import Collection
    from agentpipe.context import Context
    from agentpipe.task import Task
    from agentpipe.trace import Tracer

# How long a run that was told to end may take to clean up before it is left behind.
CANCEL_GRACE_S = 1.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024
MAX_ANSWER_DEPTH = 200

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Run:
    """A run that gave an answer.

    Attributes:
        answer: Text or JSON.
        evaluations: One for each of the task's evaluators.
    """

    answer: Any
    evaluations: tuple[Evaluation, ...] = field(default=())


class Runner:
    """One agent's runs; each instance of the agent does one at a time.

    Attributes:
        context: Its credentials.
    """

    def __init__(self, name: str, collection: Collection, engine: Engine, context: Context) -> None:
        self.name, self.context = name, context
        self._collection, self._engine = collection, engine
        self._idle: list[_Instance] = []

    async def run(self, task: Task, tracer: Tracer) -> Run:
        """Have the agent answer, and evaluate the answer.

        Raises:
            TimeLimitExceeded: It took too long, and was told to end.
            AnswerError: What it returned is no answer.
            BaseException: Whatever the agent raises.
        """
        instance = self._idle.pop() if self._idle else self._new_instance()
        try:
            with tracer.root() as span:
                span.add({"type": "agent", "name": self.name, "messages": [task.question]})
                # A copy: what the agent does to it changes neither judgement nor Result.
                answer = await instance.answer(task.copy(), self._collection.time_limit_s)
                text = answer_text(answer)
        except BaseException:
            # What an agent's failure leaves behind must not meet the next task.
            await instance.close()
            raise
        self._idle.append(instance)
        return Run(answer, tuple(await self._evaluate(task, text)))

    async def close(self) -> None:
        """Close the idle instances."""
        while self._idle:
            await self._idle.pop().close()

    def _new_instance(self) -> _Instance:
        in_thread = self._engine.blocks or self._collection.isolation == "thread"
        return _Instance(self.name, self._engine, self.context, in_thread=in_thread)

    async def _evaluate(self, task: Task, text: str) -> list[Evaluation]:
        if not task.evaluators:
            return []
        limit_s, env = self._collection.time_limit_s, self.context.env
        try:
            async with asyncio.timeout(limit_s):
                return await evaluate(task.evaluators, text, task, self._engine.search, env)
        except TimeoutError:
            error = f"the evaluators took longer than {limit_s:g} s together"
            return [
                Evaluation(config=config, response=text, passed=False, error=error, broken=True)
                for config in task.evaluators
            ]


class _Instance:
    """An agent object, built with its first task; in a thread of its own where it would block."""

    def __init__(self, name: str, engine: Engine, context: Context, *, in_thread: bool) -> None:
        self._name, self._engine, self._context = name, engine, context
        self._agent: Agent | None = None
        self._thread = AgentThread(name) if in_thread else None

    async def answer(self, task: Task, limit_s: float) -> Any:
        """The agent's answer; the run is told to end at the limit, or when this is cancelled."""
        run = asyncio.ensure_future(self._answer(task))
        try:
            done, _ = await asyncio.wait({run}, timeout=limit_s)
        except asyncio.CancelledError:
            await self._end(run)
            raise
        if done:
            return run.result()
        await self._end(run)
        raise TimeLimitExceeded(limit_s)

    async def close(self) -> None:
        """Close the agent as far as it lets itself be closed; never raises."""
        closing = getattr(self._agent, "close", None)
        try:
            if closing is not None:
                async with asyncio.timeout(CANCEL_GRACE_S):
                    await self._call(closing, closing)
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - the run's outcome stands
            log.warning("agent %s: close() failed: %s", self._name, type(error).__name__)
        finally:
            self._agent = None
            if self._thread is not None:
                self._thread.close()

    async def _answer(self, task: Task) -> Any:
        try:
            if self._agent is None:
                await self._open()
            assert self._agent is not None
            agent, context = self._agent, self._context
            return await self._call(agent.execute, lambda: agent.execute(task, context))
        except (SystemExit, KeyboardInterrupt) as error:
            # asyncio would end the worker's whole loop for these.
            raise AnswerError(f"the agent raised {type(error).__name__}") from error

    async def _open(self) -> None:
        # A coroutine's agent may make loop-bound clients when it is built, a plain one
        # connections that belong to their thread: each is built where it will run.
        build = self._engine.build
        self._agent = await self._thread.call(build) if self._thread else build()
        opening = getattr(self._agent, "open", None)
        if opening is not None:
            await self._call(opening, opening)

    async def _call(self, function: Callable[..., Any], call: Callable[[], Any]) -> Any:
        if self._thread is not None:
            return await self._thread.call(call)
        if inspect.iscoroutinefunction(function):
            return await call()
        return await call_in_thread(call)

    async def _end(self, run: asyncio.Future[Any]) -> None:
        """End a run; one that does not heed it within the grace is left behind, with a warning."""
        if self._thread is not None:
            self._thread.interrupt()
        else:
            run.cancel()
        done, _ = await asyncio.wait({run}, timeout=CANCEL_GRACE_S)
        if not done:
            run.cancel()
            log.warning("agent %s: a run goes on after it was told to end", self._name)
        elif not run.cancelled():
            run.exception()  # Seen, so that asyncio does not report it as lost.


def answer_text(answer: Any) -> str:
    """The answer as evaluators see it: itself, or its JSON.

    Raises:
        AnswerError: It is neither text nor JSON; says where and what it is.
    """
    if isinstance(answer, str):
        data = _encoded(answer)
        text = answer
    else:
        _refuse_what_json_cannot_hold(answer, "the answer", 0)
        data = _encoded(answer)
        text = data.decode()
    if len(data) > MAX_ANSWER_BYTES:
        raise AnswerError(
            f"the answer has {len(data):,} bytes, {MAX_ANSWER_BYTES:,} are allowed: "
            "store it and return its address"
        )
    return text


def _encoded(answer: Any) -> bytes:
    try:
        return orjson.dumps(answer)
    except (TypeError, ValueError, RecursionError) as error:
        raise AnswerError(f"the answer is not text or JSON: {error}") from error


def _refuse_what_json_cannot_hold(value: Any, where: str, depth: int) -> None:
    """Stricter than orjson, which turns NaN into null and dates into texts without a word."""
    if depth > MAX_ANSWER_DEPTH:
        raise AnswerError(f"{where[:60]}...: nested deeper than {MAX_ANSWER_DEPTH}, or in a cycle")
    if value is None or isinstance(value, (str, bool, int)):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise AnswerError(f"{where} is {value}, which is not JSON: return null or a number")
    elif type(value) is dict:
        for name, item in value.items():
            if type(name) is not str:
                raise AnswerError(f"{where} has a key of type {type(name).__name__}: use texts")
            _refuse_what_json_cannot_hold(item, f"{where}[{name[:40]!r}]", depth + 1)
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            _refuse_what_json_cannot_hold(item, f"{where}[{index}]", depth + 1)
    else:
        raise AnswerError(f"{where} is of type {type(value).__name__}: return text or JSON")
