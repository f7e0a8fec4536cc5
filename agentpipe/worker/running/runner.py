"""Runner: runs the tasks of one agent in this process, within limits, and evaluates them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from agentpipe.core.failures import error_line
from agentpipe.core.held_time import counting
from agentpipe.core.json_values import checked_answer
from agentpipe.core.loop_turns import within
from agentpipe.core.masking import shorten
from agentpipe.core.result import STOP
from agentpipe.core.rollout import OFF, REQUIRE, TOKENS, Rollout, as_required, recorder
from agentpipe.core.slots import Slots
from agentpipe.engines.base import Answer
from agentpipe.engines.gateway import run_gateway
from agentpipe.engines.instance import Instance
from agentpipe.engines.policies import RunPolicy, following, policy_key
from agentpipe.errors import AgentFailed, TimeLimitExceeded
from agentpipe.evaluation.evaluators import all_broken, are_brief, evaluate
from agentpipe.evaluation.kept_answer import KeptAnswer
from agentpipe.evaluation.refusals import refusals

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping

    from agentpipe.config.collection import Collection
    from agentpipe.config.function_scope import FunctionScope
    from agentpipe.core.context import Context
    from agentpipe.core.task import Task
    from agentpipe.core.trace import Tracer
    from agentpipe.engines.base import Engine
    from agentpipe.engines.policies import LivePolicy
    from agentpipe.engines.process.judges import Judges
    from agentpipe.evaluation.evaluators import Evaluation

# Most characters of an answer or an error in the trace; the Result has them whole.
MAX_RECORDED_CHARS = 100_000


@dataclass(frozen=True, slots=True)
class Completed:
    """The output of a run that gave an answer.

    Attributes:
        answer: A string or JSON.
        evaluations: One for each of the task's evaluators.
        stop: Why the answer ended, if the agent reported it.
        kept: The output of an earlier run, if this run only evaluated it.
        keepable: Whether a later run can evaluate the answer.
        by_agent: Whether its agent evaluated it.
        env: The context's values, to redact them from an answer that is kept.
    """

    answer: Any
    evaluations: tuple[Evaluation, ...] = field(default=())
    stop: str | None = None
    kept: KeptAnswer | None = None
    keepable: bool = False
    by_agent: bool = False
    env: Mapping[str, str] = field(default_factory=dict, repr=False)

    def judged(self, evaluations: Iterable[Evaluation]) -> Completed:
        """Copy with these evaluations."""
        return _COMPLETED.changed(self, {"evaluations": tuple(evaluations)})


_COMPLETED = Slots(Completed)


def _ignore(_: Completed) -> None:
    """Do nothing, for callers that wait for the whole run."""


def _refuse_inexact(rollout: Rollout | None) -> None:
    """Reject an answer without the token ids that its trainer needs."""
    if rollout is not None and rollout.required and not rollout.is_exact:
        text = "record: {tokens: require}: the run has responses without token ids, or none at all"
        raise AgentFailed(text, kind="NoTokenIds", permanent=True)


class Runner:
    """One agent's runs; each instance of the agent runs one at a time.

    Attributes:
        context: The agent's credentials.
    """

    def __init__(
        self,
        name: str,
        collection: Collection,
        engine: Engine,
        context: Context,
        judges: Judges | None = None,
        *,
        policy: LivePolicy | None = None,
    ) -> None:
        """``judges`` run the user code of evaluators; if None, this process does.

        ``policy`` is the model that the agents call instead of their own.
        """
        self.name, self.context = name, context
        self._collection, self._engine, self._apart = collection, engine, judges
        self._policy = policy
        self._policy_key = policy_key(context.env) if policy else ""
        self._idle: list[Instance] = []

    @property
    def secrets(self) -> tuple[str, ...]:
        """Credentials of the context and of the worker's environment."""
        own = (self._policy_key,) if self._policy_key else ()
        return (*self.context.env.values(), *getattr(self._engine, "secrets", ()), *own)

    @cached_property
    def _functions(self) -> FunctionScope:
        return self._collection.functions  # Reads the disk.

    def refusals(self, task: Task) -> list[str]:
        """Why the task must not run: its evaluators use what a task has no access to."""
        if not task.evaluators:
            return []
        return refusals(task.evaluators, self._functions, self.context)

    async def run(
        self, task: Task, tracer: Tracer, answered: Callable[[Completed], None] = _ignore
    ) -> Completed:
        """Run the agent and evaluate its answer; only evaluate an answer of an earlier run.

        Args:
            task: Carries the answer of an earlier run, if that could not be evaluated.
            tracer: Receives the trace.
            answered: Called with the answer before user code evaluates it.

        Raises:
            TimeLimitExceeded: It took too long and was interrupted.
            AnswerError: It returned neither a string nor JSON.
            BaseException: Whatever the agent raises.
        """
        if task.answered is not None:
            return await self._judge(task, task.answered, tracer, answered)
        tracer.rollout = self._new_rollout(task)
        instance = self._idle.pop() if self._idle else self._new_instance()
        try:
            with tracer.root() as span:
                text = error = ""
                try:
                    # A copy: the agent's changes must reach neither evaluators nor the Result.
                    answer = await self._answer_of(instance, task.copy())
                    answer = answer if isinstance(answer, Answer) else Answer(answer)
                    value, text = checked_answer(answer.value)
                    _refuse_inexact(tracer.rollout)
                except BaseException as raised:
                    text, error = "", error_line(raised)
                    raise
                finally:
                    span.add(self._record(task, text, error))
        except BaseException:
            # State left by a failed run must not reach the next task.
            await instance.close()
            raise
        self._idle.append(instance)
        evaluations, env = answer.evaluations, self.context.env
        if evaluations is not None:
            keepable = self._judges(task)
            return Completed(
                value, evaluations, answer.stop, keepable=keepable, by_agent=True, env=env
            )
        given = Completed(value, (), answer.stop, keepable=True, env=env)
        return await self._evaluated(task, text, given, answered)

    # These methods return coroutines instead of awaiting them: a coroutine that only awaits another
    # would keep its frame for the whole run.

    def _answer_of(self, instance: Instance, task: Task) -> Coroutine[Any, Any, Any]:
        if self._policy is None:
            return self._asked(instance, task)
        return self._following(RunPolicy(self._policy, task, self._policy_key), instance, task)

    async def _following(self, policy: RunPolicy, instance: Instance, task: Task) -> Any:
        with following(policy), counting(policy.held):
            return await self._asked(instance, task)

    def _asked(self, instance: Instance, task: Task) -> Coroutine[Any, Any, Any]:
        models = getattr(self._engine, "models", None)
        if models is None or recorder() is None:
            return instance.answer(task, self._collection.time_limit_s)
        return self._through_gateway(instance, task, models)

    async def _through_gateway(self, instance: Instance, task: Task, models: Any) -> Any:
        limit_s = self._collection.time_limit_s
        async with run_gateway(task, self.context, models) as gateway:
            context = gateway.led(self.context) if gateway else None
            return await instance.answer(task, limit_s, context)

    async def close(self) -> None:
        """Close the idle instances, and the judges of all agents of this context."""
        while self._idle:
            await self._idle.pop().close()
        if self._apart is not None:
            await self._apart.close()

    async def _judge(
        self,
        task: Task,
        sealed: Mapping[str, Any],
        tracer: Tracer,
        answered: Callable[[Completed], None],
    ) -> Completed:
        env = self.context.env
        kept = KeptAnswer.opened(sealed, env)
        if self._collection.record_tokens == REQUIRE:
            kept = replace(kept, rollout=as_required(kept.rollout, kept.stop or STOP))
        tracer.spans.extend(kept.trace)
        tracer.usage.add(kept.usage)
        _, text = checked_answer(kept.answer)
        given = Completed(kept.answer, (), kept.stop, kept, keepable=True, env=env)
        if kept.by_agent:
            return given.judged(await self._judged_by_agent(task, kept.answer, text))
        return await self._evaluated(replace(task, answered=None), text, given, answered)

    async def _evaluated(
        self, task: Task, text: str, given: Completed, answered: Callable[[Completed], None]
    ) -> Completed:
        answered(given)
        if not task.evaluators:
            return given
        return given.judged(await self._evaluate(task, text))

    def _judges(self, task: Task) -> bool:
        """Whether the agent can judge later: cleanups remove what it would inspect."""
        can = getattr(self._engine, "judges_answers", False)
        return can and not task.prepares and not task.cleanups

    async def _judged_by_agent(self, task: Task, answer: Any, text: str) -> tuple[Evaluation, ...]:
        instance = self._idle.pop() if self._idle else self._new_instance()
        asked = replace(task.copy(), answered={"answer": answer})
        try:
            judged = await instance.answer(asked, self._collection.time_limit_s)
        except TimeLimitExceeded:
            await instance.close()
            return tuple(self._too_slow(task, text))
        except BaseException:
            await instance.close()
            raise
        self._idle.append(instance)
        return judged.evaluations or ()

    def _record(self, task: Task, response: str, error: str) -> dict[str, Any]:
        """A run's record in MCP-Universe's trace format."""
        return {
            "type": "agent",
            "class": type(self._engine).__name__,
            "name": self.name,
            "messages": [task.question],
            "response": shorten(response, MAX_RECORDED_CHARS),
            "error": shorten(error, MAX_RECORDED_CHARS),
        }

    def _new_rollout(self, task: Task) -> Rollout | None:
        tokens = self._collection.record_tokens
        if tokens == OFF:
            return None
        return Rollout(
            required=tokens == REQUIRE,
            by_tokens=self._collection.record_mode == TOKENS,
            policy_version=task.policy_version,
        )

    def _new_instance(self) -> Instance:
        in_thread = self._engine.blocks or self._collection.isolation == "thread"
        return Instance(self.name, self._engine, self.context, in_thread=in_thread)

    async def _evaluate(self, task: Task, text: str) -> list[Evaluation]:
        if are_brief(task.evaluators, text):
            return await self._judging(task, text, brief=True)
        limit_s = self._collection.time_limit_s
        try:
            return await within(self._judging(task, text), limit_s)
        except TimeoutError:
            return self._too_slow(task, text)

    def _judging(
        self, task: Task, text: str, *, brief: bool = False
    ) -> Coroutine[Any, Any, list[Evaluation]]:
        if self._apart is not None and self._apart.are_needed(task):
            return self._apart.evaluate(task, text)
        scope = self._functions
        return evaluate(task.evaluators, text, task, scope, self.context, brief=brief)

    def _too_slow(self, task: Task, text: str) -> list[Evaluation]:
        limit_s = self._collection.time_limit_s
        error = AgentFailed(f"the evaluators took longer than {limit_s:g} s together")
        return all_broken(task.evaluators, text, error)
