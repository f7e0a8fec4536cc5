"""Evaluators judge an answer by MCP-Universe's chains and comparisons, or by a user's function.

An evaluator is a dict: ``func`` (``json -> get(key) -> foreach -> len``, or ``module:function``),
``op``, ``value``, ``op_args``, ``desc``, ``name``, ``weight``. A failure caused by the answer means
a wrong answer; one caused by the evaluator means a broken evaluator. They are kept apart because a
trainer learns from wrong answers.
"""

from __future__ import annotations

import asyncio
import math
import operator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from agentpipe.config.imports import explain
from agentpipe.config.mcp_universe_names import names
from agentpipe.core.context import NO_CONTEXT
from agentpipe.core.failures import is_infra
from agentpipe.core.masking import shorten
from agentpipe.core.template import render
from agentpipe.errors import ConfigError
from agentpipe.evaluation.chain import BrokenEvaluatorError, WrongAnswerError, compare, run_chain
from agentpipe.evaluation.checks import PEERS, RENDERED, hidden_problems, problems_of
from agentpipe.evaluation.functions import call_function, is_reference
from agentpipe.evaluation.verdicts import Verdict, read_verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.config.function_scope import FunctionScope
    from agentpipe.core.context import Context
    from agentpipe.core.task import Task

MAX_RESPONSE_CHARS = 100_000
_MAX_REASON_CHARS = 2000
# Longer chains, by characters times steps, run in a thread instead of on the event loop.
_MOST_ON_LOOP = 200_000
# Up to this many chains in a row do not delay other runs noticeably.
_MOST_BRIEF = 4

_NEEDS_PEER = "op {} needs MCP-Universe's code: run the collection with engine: mcpuniverse"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The verdict of one evaluator on one answer.

    Attributes:
        config: The evaluator, with MCP-Universe's defaults filled in.
        response: The answer's text, cut after ``MAX_RESPONSE_CHARS``.
        reason: Why the answer did not pass, or the function's reason for its score.
        error: Why the evaluator could not judge; empty unless ``broken``.
        broken: The evaluator failed; ``passed`` is meaningless.
        score: From 0 to 1, if a function graded the answer.
        cause: The error of a service that the evaluator needs, if that broke it.
    """

    config: dict[str, Any]
    response: str
    passed: bool
    reason: str = ""
    error: str = ""
    broken: bool = False
    score: float | None = None
    cause: BaseException | None = None

    @property
    def value(self) -> float:
        """The evaluator's contribution to the reward."""
        return float(self.passed) if self.score is None else self.score

    def to_dict(self) -> dict[str, Any]:
        """The five keys that MCP-Universe's consumers read, and ``score`` if there is one."""
        return {
            "config": self.config,
            "response": self.response,
            "passed": self.passed,
            "reason": self.reason,
            "error": self.error,
            **({} if self.score is None else {"score": self.score}),
        }


async def evaluate(
    evaluators: Sequence[dict[str, Any]],
    answer_text: str,
    task: Task,
    scope: FunctionScope | None = None,
    context: Context = NO_CONTEXT,
    *,
    brief: bool = False,
) -> list[Evaluation]:
    """Run each evaluator on an answer, one after the other; only raises a cancellation.

    Each leaf of a chain must satisfy ``op`` (no leaf: passed); without ``op`` the chain only has to
    run. Values compare as in Python and in MCP-Universe: ``true`` equals 1.

    The user's function gets the answer's text and, if it has parameters with these names,
    ``value``, ``op_args`` and ``task``. With ``op`` it returns the value to compare with ``value``;
    without, a verdict for ``read_verdict``. A plain function runs in a thread, which keeps running
    after a cancellation.

    ``{{ NAME }}`` in ``value`` and ``op_args`` is replaced by the values that tasks may read in
    ``context``; the record shows the template. Other runs on the event loop can proceed between two
    evaluators, unless all evaluators are known to be ``brief``.
    """
    evaluations: list[Evaluation] = []
    for config in evaluators:
        if evaluations and not brief:
            await asyncio.sleep(0)
        evaluations.append(await _evaluate(config, answer_text, task, scope, context))
    return evaluations


def are_brief(evaluators: Sequence[Any], answer_text: str) -> bool:
    """Whether they never wait and are fast together, so a time limit could not end them."""
    if len(evaluators) > _MOST_BRIEF:
        return False
    return all(_is_chain(each) and not _is_long(each, answer_text) for each in evaluators)


def _is_chain(config: Any) -> bool:
    func = config.get("func") if isinstance(config, dict) else None
    return isinstance(func, str) and not is_reference(func)


def all_broken(evaluators: Sequence[Any], answer: str, error: BaseException) -> list[Evaluation]:
    """Broken evaluations of all evaluators, which could not judge for the same reason."""
    text, cause = _readable(str(error), _MAX_REASON_CHARS), _service_failure(error)
    broken = partial(Evaluation, passed=False, error=text, broken=True, cause=cause)
    return [broken(_filled(each), recorded_response(answer)) for each in evaluators]


def recorded_response(answer_text: str) -> str:
    """The answer's text as an evaluation records it."""
    return _readable(answer_text, MAX_RESPONSE_CHARS)


def reward(evaluations: Sequence[Evaluation]) -> float | None:
    """The weighted mean of the values, None without evaluations; check ``broken`` first."""
    if not evaluations:
        return None
    weights = [float(evaluation.config.get("weight", 1.0)) for evaluation in evaluations]
    largest = max(weights)  # The sum of weights near the largest float would be infinite.
    shares = [weight / largest for weight in weights]
    values = [evaluation.value for evaluation in evaluations]
    return math.fsum(map(operator.mul, shares, values)) / math.fsum(shares)


def rewards(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    """The values of the evaluators that have a name."""
    named = [evaluation for evaluation in evaluations if evaluation.config.get("name")]
    return {evaluation.config["name"]: evaluation.value for evaluation in named}


async def _evaluate(
    config: Any, answer_text: str, task: Task, scope: FunctionScope | None, context: Context
) -> Evaluation:
    filled = _filled(config)
    verdict = partial(Evaluation, filled, recorded_response(answer_text))
    try:
        _refuse(problems_of(config))
        judged = await _judge(filled, answer_text, task, scope, context)
    except WrongAnswerError as error:
        return verdict(passed=False, reason=_readable(str(error), _MAX_REASON_CHARS))
    except (BrokenEvaluatorError, ConfigError) as error:
        text = _readable(str(error), _MAX_REASON_CHARS)
        return verdict(passed=False, error=text, broken=True, cause=_service_failure(error))
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - a user's object can raise anything when used
        text = _readable(explain(error), _MAX_REASON_CHARS)
        return verdict(passed=False, error=text, broken=True, cause=_service_failure(error))
    return verdict(
        passed=judged.passed, reason=_readable(judged.reason, _MAX_REASON_CHARS), score=judged.score
    )


def _filled(config: Any) -> dict[str, Any]:
    given = config if isinstance(config, dict) else {}
    filled = {name: given.get(name, default) for name, default in PEERS.items()}
    return filled | {name: given[name] for name in ("name", "weight") if name in given}


def _service_failure(error: BaseException) -> BaseException | None:
    return error if is_infra(error) else None


async def _judge(
    config: dict[str, Any],
    answer_text: str,
    task: Task,
    scope: FunctionScope | None,
    context: Context,
) -> Verdict:
    func, op = config["func"], config["op"]
    if op in names().operators:
        raise BrokenEvaluatorError(_NEEDS_PEER.format(op))
    _refuse(hidden_problems(config, context))
    rendered = config | {name: render(config[name], context.readable) for name in RENDERED}
    if is_reference(func):
        returned = await call_function(rendered, answer_text, task, scope)
        if not op:
            return read_verdict(func, returned)
        compare(returned, op, rendered["value"], config["value"])
    elif _is_long(rendered, answer_text):
        from agentpipe.core.agent_thread import call_in_thread  # Few evaluators need it.

        await call_in_thread(lambda: _judge_by_chain(rendered, answer_text, config["value"]))
    else:
        _judge_by_chain(rendered, answer_text, config["value"])
    return Verdict(passed=True)


def _judge_by_chain(config: dict[str, Any], answer_text: str, written: Any) -> None:
    leaves = run_chain(config["func"], answer_text)
    for leaf in leaves if config["op"] else ():
        compare(leaf, config["op"], config["value"], written)


def _is_long(config: dict[str, Any], answer_text: str) -> bool:
    """Whether a chain can take long enough to delay other runs on the event loop."""
    value = config.get("value")
    compared = len(value) if isinstance(value, (list, dict)) else 1
    steps: int = config["func"].count("->") + compared
    return steps * len(answer_text) > _MOST_ON_LOOP


def _refuse(problems: list[str]) -> None:
    if problems:
        raise BrokenEvaluatorError("; ".join(problems))


def _readable(text: str, max_chars: int) -> str:
    """Shorten and escape a text so that a record can contain it."""
    text = shorten(text, max_chars, f"... (cut, {len(text):,} characters in all)")
    # A lone surrogate, from JSON's \ud800 for example, cannot be encoded as UTF-8.
    return text.encode("utf-8", "backslashreplace").decode()
