"""Refusals: evaluators that a worker rejects before the run, because they ask for too much.

Our senders already refuse most of them. A worker does not trust senders, and does not pay an agent
for a task that it would not judge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe.evaluation.chain import MAX_STEPS
from agentpipe.evaluation.checks import hidden_problems, too_many, too_many_keys
from agentpipe.evaluation.functions import function_problems, is_reference

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agentpipe.config.function_scope import FunctionScope
    from agentpipe.core.context import Context

MAX_NAMED = 3


def refusals(
    evaluators: Sequence[dict[str, Any]], scope: FunctionScope, context: Context
) -> list[str]:
    """Up to about ``MAX_NAMED`` problems, one sentence each: what is wrong, and the remedy."""
    if problem := too_many(evaluators):
        return [problem]
    found: list[str] = []
    for index, config in enumerate(evaluators):
        found += [f"evaluators[{index}]: {each}" for each in _of_one(config, scope, context)]
        if len(found) >= MAX_NAMED:
            break
    return found


def _of_one(config: dict[str, Any], scope: FunctionScope, context: Context) -> Iterator[str]:
    func = config.get("func")
    if problem := too_many_keys(config):
        yield problem
    elif isinstance(func, str) and func.count("->") >= MAX_STEPS:
        yield f"func: too many steps: at most {MAX_STEPS} are allowed"
    elif isinstance(func, str) and is_reference(func):
        yield from function_problems(func, scope)
    try:
        yield from hidden_problems(config, context)
    except RecursionError:
        yield "value or op_args: nested too deeply"
