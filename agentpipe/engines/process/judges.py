"""Judges: run the evaluators of a collection with ``isolation: process`` in children.

Functions that evaluators name are the user's code, like the agents. They are kept apart from the
worker's environment, and their crashes, exits and endless loops do not affect the worker. They do
not run in an agent's child, so an evaluator that dies costs no answer.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.engines.process import child
from agentpipe.engines.process.agent import ProcessAgent
from agentpipe.engines.process.launcher import (
    PASSED_ON,
    folder_of_worker,
    passed_on,
    shared_launcher,
)
from agentpipe.errors import AgentCrashed, AgentpipeError
from agentpipe.evaluation.evaluators import all_broken, recorded_response
from agentpipe.evaluation.functions import is_reference

if TYPE_CHECKING:
    from agentpipe.config.function_scope import FunctionScope
    from agentpipe.core.context import Context
    from agentpipe.core.task import Task
    from agentpipe.evaluation.evaluators import Evaluation

WHAT = "the evaluators' process"


class Judges:
    """The children that evaluate for all agents of one context; each runs one task at a time.

    There is one child per concurrent evaluation. Children stay, because importing what a function
    needs can take seconds.
    """

    def __init__(self, scope: FunctionScope, context: Context) -> None:
        self._scope, self._context = scope, context
        self._idle: list[ProcessAgent] = []

    def are_needed(self, task: Task) -> bool:
        """Whether an evaluator runs user code; chains and comparisons are agentpipe's own."""
        found = [each.get("func") for each in task.evaluators]
        return any(isinstance(func, str) and is_reference(func) for func in found)

    async def evaluate(self, task: Task, answer_text: str) -> list[Evaluation]:
        """Like ``evaluators.evaluate``; a child that dies or cannot start breaks all evaluators."""
        try:
            if self._idle:
                with suppress(AgentCrashed):  # An earlier task may have caused the crash.
                    return await self._judged(self._idle.pop(), task, answer_text)
            return await self._judged(self._new_judge(), task, answer_text)
        except AgentpipeError as error:
            return all_broken(task.evaluators, answer_text, error)

    async def close(self) -> None:
        """End the idle children."""
        while self._idle:
            await self._idle.pop().close()

    async def _judged(self, judge: ProcessAgent, task: Task, answer_text: str) -> list[Evaluation]:
        asked = replace(task, answered={"answer": answer_text})
        try:
            judged = await judge.execute(asked, self._context)
        except BaseException:
            await judge.close()
            raise
        self._idle.append(judge)
        response = recorded_response(answer_text)
        return [replace(each, response=response) for each in judged.evaluations]

    def _new_judge(self) -> ProcessAgent:
        launcher = shared_launcher(sys.executable, child.__name__)
        opening = {"functions": self._scope.to_json()}
        env, cwd = passed_on(PASSED_ON), folder_of_worker(WHAT)
        return ProcessAgent(launcher, opening, env, cwd=cwd, what=WHAT)
