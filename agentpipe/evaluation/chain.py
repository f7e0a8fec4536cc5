"""Chains of steps that extract values from an answer, and comparisons of those values.

The language is MCP-Universe's: ``json -> foreach -> get(key)``, then an operator and a value.
"""

from __future__ import annotations

import json
import math
import operator
import re
import reprlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from agentpipe.config.imports import explain
from agentpipe.config.mcp_universe import VERSION
from agentpipe.config.mcp_universe_names import names
from agentpipe.core.did_you_mean import did_you_mean
from agentpipe.errors import AgentpipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_STEP = re.compile(r"(\w+)\s*(?:\(([^()]*)\))?")
# Names of MCP-Universe's own operators, such as github.check_file.
_DOTTED = re.compile(r"\w[\w.]{0,200}[._][\w.]{1,200}")
# MCP-Universe's longest chains have about ten steps.
MAX_STEPS = 100
# Longer chains are not cached.
MAX_KEPT_CHARS = 500
_JSON_TYPES = (str, int, float, bool, list, dict, type(None))

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 120


class WrongAnswerError(AgentpipeError):
    """The answer is wrong."""


class BrokenEvaluatorError(AgentpipeError):
    """The evaluator failed; the answer can still be right."""


def show(value: Any) -> str:
    """A shortened repr for messages, even if ``__repr__`` raises."""
    try:
        return f"{_SHORT.repr(value)}"
    except (Exception, SystemExit):  # noqa: BLE001 - the user's __repr__ can raise anything
        return f"a {type(value).__name__}"


# Chains. Each step turns one leaf into a list of leaves.


def parse_chain(func: str) -> Sequence[tuple[str, str]]:
    """``(name, argument)`` of each step; a missing argument is an empty string.

    Raises:
        BrokenEvaluatorError: A step is invalid, or there are too many.
    """
    # Cached: all runs of a collection use the same chains, and each parses them twice.
    return _parsed(func) if len(func) <= MAX_KEPT_CHARS else _parsed.__wrapped__(func)


@lru_cache(maxsize=256)
def _parsed(func: str) -> Sequence[tuple[str, str]]:
    if (count := func.count("->")) >= MAX_STEPS:
        raise BrokenEvaluatorError(f"{count + 1:,} steps: at most {MAX_STEPS} are allowed")
    return tuple(_parse_step(text.strip()) for text in func.split("->") if text.strip())


def _parse_step(text: str) -> tuple[str, str]:
    match = _STEP.fullmatch(text)
    if match is None and ":" in text.partition("(")[0]:
        raise BrokenEvaluatorError(
            f"{text!r:.100}: a chain cannot contain your own function; use it as the whole func"
        )
    if match is None:
        raise BrokenEvaluatorError(f"invalid step {text!r:.100}: write name or name(argument)")
    name, arguments = match.groups()
    if name not in STEPS:
        raise BrokenEvaluatorError(f"unknown function {name!r:.100}: {did_you_mean(name, STEPS)}")
    if name == "get" and arguments is None:
        raise BrokenEvaluatorError("get needs a key: write get(key)")
    return name, (arguments or "").partition(",")[0].strip()


def run_chain(func: str, answer_text: str) -> list[Any]:
    """Run a chain; return all leaves after the last step.

    Raises:
        WrongAnswerError: The answer lacks the structure that a step needs.
        BrokenEvaluatorError: The chain is invalid.
    """
    leaves: list[Any] = [answer_text]
    for name, argument in parse_chain(func):
        step = STEPS[name]
        leaves = [result for leaf in leaves for result in step(leaf, argument)]
    return leaves


def _json(leaf: Any, _argument: str) -> list[Any]:
    """Parse JSON; as in MCP-Universe, fenced Markdown blocks are unwrapped first."""
    _expect(leaf, str, "json needs a string")
    text = leaf.strip().strip("`").strip().removeprefix("json").strip()
    try:
        return [json.loads(text)]
    except RecursionError:
        raise WrongAnswerError("the answer is JSON nested too deeply") from None
    except ValueError as error:
        raise WrongAnswerError(f"the answer is not JSON: {error}") from None


def _get(leaf: Any, key: str) -> list[Any]:
    _expect(leaf, dict, f"get({key}) needs an object")
    return [leaf.get(key)]


def _len(leaf: Any, _argument: str) -> list[Any]:
    _expect(leaf, list, "len needs a list")
    return [len(leaf)]


def _foreach(leaf: Any, _argument: str) -> list[Any]:
    _expect(leaf, list, "foreach needs a list")
    return list(leaf)


def _expect(leaf: Any, kind: type, need: str) -> None:
    if not isinstance(leaf, kind):
        raise WrongAnswerError(f"{need}, the answer has {show(leaf)}")


STEPS: dict[str, Callable[[Any, str], list[Any]]] = {
    "json": _json,
    "get": _get,
    "len": _len,
    "foreach": _foreach,
    "raw": lambda leaf, _argument: [leaf],
    "list": lambda leaf, _argument: [[leaf]],
}


# Comparisons.


def _is_in(leaf: Any, value: Any) -> bool:
    return leaf in value


def _contains(leaf: Any, value: Any) -> bool:
    if not isinstance(leaf, (str, list, tuple)):
        raise TypeError("neither a list nor a string")
    return value in leaf


_ORDERS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
OPS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    **_ORDERS,
    "in": _is_in,
    "contain": _contains,
}


def compare(leaf: Any, op: str, value: Any, written: Any) -> None:
    """Return if ``leaf op value`` holds; messages show ``written``, the evaluator's own value.

    Raises:
        WrongAnswerError: It does not hold, or the leaf's type does not support ``op``.
        BrokenEvaluatorError: The comparison itself fails.
    """
    try:
        passed = bool(OPS[op](leaf, value))
    except (Exception, SystemExit) as error:
        if isinstance(error, (TypeError, RecursionError)) and type(leaf) in _JSON_TYPES:
            reason = f"{show(leaf)} cannot be compared: {op} {show(written)}"
            raise WrongAnswerError(reason) from None
        raise BrokenEvaluatorError(f"comparison {op!r} failed: {explain(error)}") from error
    if not passed:
        raise WrongAnswerError(f"{show(leaf)} does not satisfy: {op} {show(written)}")


def op_problems(op: str, value: Any) -> list[str]:
    """Mistakes in a comparison that are visible without an answer; ``op`` can be empty."""
    if op in names().operators:
        return []
    if op and op not in OPS:
        return [_unknown_op(op)]
    if op == "in" and not isinstance(value, (str, list, tuple)):
        return [f"value: 'in' needs a list or a string, got {show(value)}"]
    if isinstance(value, float) and math.isnan(value) and op in OPS:
        return ["value: NaN compares with nothing; use a number"]
    if op in _ORDERS and not isinstance(value, (int, float, str)):
        return [f"value: {op!r} needs a number or a string, got {show(value)}"]
    return []


def _unknown_op(op: str) -> str:
    known = f"choose from {' '.join(OPS)}"
    if _DOTTED.fullmatch(op):
        hint = did_you_mean(op, sorted(names().operators))
        return f"op: {op!r:.100} is not in {VERSION}: {hint}; or {known}"
    return f"op: unknown operator {op!r:.100}, in {VERSION} as well: {known}"
