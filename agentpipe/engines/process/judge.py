"""JudgeEngine: the child's side of ``Judges``, as an engine whose agents evaluate an answer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.engines.base import Answer
from agentpipe.evaluation.evaluators import evaluate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from agentpipe.config.function_scope import FunctionScope
    from agentpipe.core.context import Context
    from agentpipe.core.task import Task
    from agentpipe.engines.base import Agent


class JudgeEngine:
    """Builds agents that run the evaluators of a task that already has its answer."""

    blocks = False
    search: Sequence[Path] = ()

    def __init__(self, scope: FunctionScope) -> None:
        self._scope = scope

    def build(self) -> Agent:
        """Build an agent for any number of tasks."""
        return _Judge(self._scope)


class _Judge:
    def __init__(self, scope: FunctionScope) -> None:
        self._scope = scope

    async def execute(self, task: Task, context: Context) -> Answer:
        """Return the evaluations, without the answer's text in each, because the worker has it."""
        assert task.answered is not None
        text, asked = task.answered["answer"], replace(task, answered=None)
        found = await evaluate(task.evaluators, text, asked, self._scope, context)
        return Answer("", evaluations=tuple(replace(each, response="") for each in found))
