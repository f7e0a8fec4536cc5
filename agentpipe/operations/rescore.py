"""Rescore: judges the stored answers of a run again, as another run; no agent runs.

Results without an answer are carried over unchanged, so that both runs have the same denominators.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.core.run_names import prefix_of, without_run
from agentpipe.core.secret_forms import MASK
from agentpipe.core.task import Task
from agentpipe.core.trace import Tracer
from agentpipe.errors import ConfigError, TaskError
from agentpipe.evaluation.evaluators import reward, rewards
from agentpipe.operations.unhandled import Unhandled
from agentpipe.sinks.base import Record
from agentpipe.worker.outcomes.unjudged import evaluation_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agentpipe.archive import Archive
    from agentpipe.core.redaction import Redactor
    from agentpipe.core.result import Result
    from agentpipe.operations.new_evaluators import NewEvaluators
    from agentpipe.sinks.base import Sink
    from agentpipe.worker.running.runner import Completed, Runner

BATCH = 32
JUDGED = ("ok", "eval_error")


@dataclass(slots=True)
class Rescored(Unhandled):
    """The outcome for a run's results. The new run lacks answers that cannot be judged.

    Attributes:
        judged: Answers that were judged again.
        carried: Results without an answer, carried over.
        known: Results that an earlier call already handled.
    """

    judged: int = 0
    carried: int = 0
    known: int = 0


@dataclass(frozen=True, slots=True)
class RescoredNames:
    """The names of a run's tasks in another run."""

    run: str
    to_run: str

    def of(self, name: str | None) -> str | None:
        """The new name of a task or group; a name without a run also gets the new prefix."""
        return name and prefix_of(self.to_run) + without_run(name, self.run)


class Rescore:
    """Judges with a worker's own runners: same limits, contexts and child processes."""

    def __init__(
        self,
        names: RescoredNames,
        evaluators: NewEvaluators,
        runners: Mapping[str, Runner],
        archive: Archive,
        sink: Sink,
    ) -> None:
        self._names, self._evaluators, self._runners = names, evaluators, runners
        self._archive, self._sink = archive, sink
        self._done = Rescored()

    async def run(self, results: Iterable[Result], redactor: Redactor) -> Rescored:
        """Judge all, and publish batch by batch; a repeated call continues where one stopped.

        Raises:
            ConfigError: The collection does not allow an evaluator.
        """
        left = iter(results)
        try:
            while batch := list(islice(left, BATCH)):
                judged = await asyncio.gather(*map(self._rescored, batch))
                made = [it for it in judged if it is not None]
                self._sink.publish([Record(it.task_id, it.encode(redactor)) for it in made])
        finally:
            for runner in self._runners.values():
                await runner.close()
        return self._done

    async def _rescored(self, result: Result) -> Result | None:
        renamed = self._renamed(result)
        if self._archive.result(renamed.task_id) is not None:
            self._done.known += 1
            return None
        if result.outcome not in JUDGED:
            self._done.carried += 1
            return renamed
        try:
            made = await self._judged(result, renamed)
        except TaskError as problem:
            self._done.note(f"{result.task_id} is not judged again: {problem}")
            return None
        self._done.judged += 1
        return made

    def _renamed(self, result: Result) -> Result:
        of = self._names.of
        return replace(
            result,
            task_id=of(result.task_id) or "",
            run=self._names.to_run,
            group_id=of(result.group_id),
            retry_of=of(result.retry_of),
            replay_of=of(result.replay_of),
            rescored_of=result.task_id,
        )

    async def _judged(self, result: Result, renamed: Result) -> Result:
        task = self._task(result)
        runner = self._runner_of(result)
        if refused := runner.refusals(task):
            raise ConfigError("; ".join(refused))
        run = await runner.run(task, Tracer())
        return _with_verdicts(renamed, run, task)

    def _task(self, result: Result) -> Task:
        """The task of a run that only judges.

        Raises:
            TaskError: The stored answer is not complete, or has no evaluators.
        """
        if "result" in (result.truncated or {}).get("fields", []):
            raise TaskError("the sink has cut its answer")
        if MASK in orjson.dumps(result.result).decode():
            raise TaskError(f"its answer has {MASK} where a credential was")
        named = (self._evaluators.of(name) for name in _names_of(result))
        evaluators = next((it for it in named if it is not None), None)
        if evaluators is None:
            raise TaskError("the file has no evaluators for it")
        stored = result.task or {}
        answered = {
            "answer": result.result,
            "attempt": result.attempt,
            "failures": 0,
            "usage": {},
            "trace": [],
            "stop": result.stop,
            "rollout": result.rollout,
            "mark": secrets.token_hex(8),
        }
        own = {"task_id": result.task_id, "evaluators": evaluators, "metadata": result.metadata}
        return replace(Task.load({**stored, **own}), answered=answered)

    def _runner_of(self, result: Result) -> Runner:
        """The runner of its agent, with its context; if that is gone, any of its collection."""
        own = self._runners.get(result.agent or "")
        of = self._runners.items()
        others = (it for name, it in of if name.rpartition("_")[0] == result.collection)
        runner = own or next(others, None)
        if runner is None:
            raise TaskError(f"the collection file has no collection {result.collection!r}")
        return runner


def _names_of(result: Result) -> Iterable[str]:
    """The names that a task file can use for it: its own id, or its group's."""
    for name in (result.task_id, result.group_id):
        if name:
            yield without_run(name, result.run)


def _with_verdicts(renamed: Result, run: Completed, task: Task) -> Result:
    evaluations = list(run.evaluations)
    broken = any(each.broken for each in evaluations)
    score = None if broken else reward(evaluations)
    stored: dict[str, Any] = {**(renamed.task or {}), "evaluators": task.evaluators}
    return replace(
        renamed,
        outcome="eval_error" if broken else "ok",
        evaluation_results=[each.to_dict() for each in evaluations],
        reward=score,
        rewards={} if broken else rewards(evaluations),
        reward_trustworthy=score is not None,
        error=evaluation_error(evaluations),
        rollout=run.kept.rollout if run.kept else renamed.rollout,
        task=stored,
    )
