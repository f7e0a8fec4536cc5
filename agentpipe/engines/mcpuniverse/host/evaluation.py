"""Evaluators: an answer that is wrong is told apart from an evaluator that broke."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .failure import LlmFailedError

if TYPE_CHECKING:
    from .monitor import Watch

MAX_TEXT = 2_000
# These look at the answer only, so that an answer of the wrong type is a wrong one.
PLAIN_OPS = ("=", "<", "<=", ">", ">=", "in", "contain")


async def evaluate(
    configs: list[dict[str, Any]], answer: str, context: Any, watch: Watch
) -> list[Any]:
    """One evaluation for each evaluator; those that could not judge are ``broken``."""
    return [await _evaluate(config, answer, context, watch) for config in configs]


async def _evaluate(
    config: dict[str, Any], answer: str, context: Any, watch: Watch
) -> dict[str, Any]:
    from mcpuniverse.evaluator import Evaluator

    watch.unanswered = None
    try:
        evaluator = Evaluator(dict(config), context=context)
        wrong = await _chain_problem(evaluator, answer)
        result = (await evaluator.evaluate(answer)).model_dump(mode="json")
    except (Exception, LlmFailedError) as error:  # noqa: BLE001 - an unknown op, say
        return _broken(config, answer, f"{type(error).__name__}: {error}")
    return _told_apart(dict(result), wrong, watch.unanswered)


def _told_apart(
    result: dict[str, Any], wrong: str | None, unanswered: str | None
) -> dict[str, Any]:
    """MCP-Universe calls an answer wrong whatever happened."""
    if result["passed"]:
        return result
    if wrong is None and unanswered is not None:
        return {**result, "error": unanswered[:MAX_TEXT], "broken": True}
    if not result["error"]:
        return result
    if wrong is None and not _is_answers_fault(result):
        return {**result, "error": result["error"][:MAX_TEXT], "broken": True}
    wrong = wrong or f"{result['reason']}: {result['error']}"
    return {**result, "reason": wrong[:MAX_TEXT], "error": ""}


async def _chain_problem(evaluator: Any, answer: str) -> str | None:
    """What the chain ``json -> get(...)`` finds wrong with the answer."""
    try:
        await evaluator.execute(answer)
    except Exception as error:  # noqa: BLE001 - theirs raise anything for a wrong answer
        return f"{type(error).__name__}: {error}"
    return None


def _is_answers_fault(result: dict[str, Any]) -> bool:
    """Of the plain comparisons only ``in`` can be wrong by itself: its value is no list."""
    op, value = result["config"]["op"], result["config"]["value"]
    return op in PLAIN_OPS and (op != "in" or isinstance(value, (str, list)))


def _broken(config: dict[str, Any], answer: str, error: str) -> dict[str, Any]:
    told = {"response": answer, "passed": False, "reason": "", "error": error[:MAX_TEXT]}
    return {"config": config, **told, "broken": True}
