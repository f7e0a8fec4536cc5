"""Runs evaluators, and separates wrong answers from broken evaluators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .blame import WatchedOperator
from .failure import LlmFailedError, is_infra

if TYPE_CHECKING:
    from .monitor import Monitor

# More than the worker shows, because it masks a text before it cuts it.
MAX_TEXT = 20_000
# Keys of an evaluator that MCP-Universe drops.
OURS = ("name", "weight")
# These operators only look at the answer, so an answer of the wrong type is a wrong answer.
PLAIN_OPS = ("=", "<", "<=", ">", ">=", "in", "contain")


async def evaluate(
    configs: list[dict[str, Any]], answer: str, context: Any, monitor: Monitor
) -> list[Any]:
    """Return one evaluation per evaluator.

    Evaluators that failed are ``broken``, and also ``infra`` if a service failed.
    """
    return [await _evaluate(config, answer, context, monitor) for config in configs]


async def _evaluate(
    config: dict[str, Any], answer: str, context: Any, monitor: Monitor
) -> dict[str, Any]:
    from mcpuniverse.evaluator import Evaluator

    monitor.unanswered = None
    try:
        evaluator = Evaluator(dict(config), context=context)
        wrong = await _chain_problem(evaluator, answer)
        with WatchedOperator(str(config.get("op") or "")) as operator:
            result = (await evaluator.evaluate(answer)).model_dump(mode="json")
    except (Exception, LlmFailedError) as error:  # noqa: BLE001 - for example, an unknown op
        failed = _broken(config, answer, f"{type(error).__name__}: {error}")
        return {**failed, "infra": is_infra(error)}
    result["config"] |= {name: config[name] for name in OURS if name in config}
    return _classified(dict(result), wrong, monitor.unanswered, operator)


def _classified(
    result: dict[str, Any], wrong: str | None, unanswered: str | None, operator: WatchedOperator
) -> dict[str, Any]:
    """Mark a failed result ``broken`` unless the answer is wrong; MCP-Universe always blames it."""
    if result["passed"]:
        return result
    if wrong is None and unanswered is not None:
        return {**result, "error": unanswered[:MAX_TEXT], "broken": True, "infra": True}
    if not result["error"]:
        return result
    if wrong is None and not _is_answers_fault(result) and not operator.blames_answer():
        text = result["error"][:MAX_TEXT]
        return {**result, "error": text, "broken": True, "infra": operator.met_failing_service()}
    wrong = wrong or operator.reason or f"{result['reason']}: {result['error']}"
    return {**result, "reason": wrong[:MAX_TEXT], "error": ""}


async def _chain_problem(evaluator: Any, answer: str) -> str | None:
    """Why the chain ``json -> get(...)`` fails on the answer; None if it does not."""
    try:
        await evaluator.execute(answer)
    except Exception as error:  # noqa: BLE001 - a wrong answer can raise anything
        return f"{type(error).__name__}: {error}"
    return None


def _is_answers_fault(result: dict[str, Any]) -> bool:
    """Plain comparisons only fail because of the answer, except ``in`` with a non-list value."""
    op, value = result["config"]["op"], result["config"]["value"]
    return op in PLAIN_OPS and (op != "in" or isinstance(value, (str, list)))


def _broken(config: dict[str, Any], answer: str, error: str) -> dict[str, Any]:
    failed = {"response": answer, "passed": False, "reason": "", "error": error[:MAX_TEXT]}
    return {"config": config, **failed, "broken": True}
