"""Evaluators: judge an answer by MCP-Universe's chains and comparisons, or by the user's function.

An evaluator is a dict: ``func`` (``json -> get(key) -> foreach -> len``, or ``module:function``),
``op``, ``value``, ``op_args``, ``desc``. What the answer causes is a wrong answer; what the
evaluator causes is a broken evaluator. The two are never mixed: a trainer learns from the first.
"""

from __future__ import annotations

import asyncio
import difflib
import inspect
import json
import math
import operator
import re
import reprlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from agentpipe.errors import AgentpipeError, ConfigError
from agentpipe.locate import explain, locate, split

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from agentpipe.task import Task

MAX_RESPONSE_CHARS = 100_000
_MAX_REASON_CHARS = 2000

_DEFAULTS: dict[str, Any] = {"func": "", "op": "", "value": None, "op_args": None, "desc": ""}
_STEP = re.compile(r"(\w+)\s*(?:\(([^()]*)\))?")
_JSON_TYPES = (str, int, float, bool, list, dict, type(None))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one evaluator says of one answer.

    Attributes:
        config: The evaluator, its defaults filled in.
        response: The answer's text, cut after ``MAX_RESPONSE_CHARS``.
        reason: Why it did not pass.
        error: Why the evaluator could not judge; empty unless ``broken``.
        broken: The evaluator failed, not the answer: ``passed`` means nothing.
    """

    config: dict[str, Any]
    response: str
    passed: bool
    reason: str = ""
    error: str = ""
    broken: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The five keys that MCP-Universe's consumers read."""
        return {
            "config": self.config,
            "response": self.response,
            "passed": self.passed,
            "reason": self.reason,
            "error": self.error,
        }


class _WrongAnswerError(AgentpipeError):
    """The answer's fault."""


class _BrokenError(AgentpipeError):
    """The evaluator's fault."""


def check(evaluators: Sequence[dict[str, Any]], search: Sequence[Path] = ()) -> list[str]:
    """What is wrong with evaluators before any answer is there, one sentence each.

    With ``search``, the user's functions are imported from there too.
    """
    problems: list[str] = []
    for index, config in enumerate(evaluators):
        found = _problems(config)
        if search and not found and _is_reference(config["func"]):
            found = _function_problems(config["func"], search)
        problems += [f"evaluators[{index}]: {problem}" for problem in found]
    return problems


async def evaluate(
    evaluators: Sequence[dict[str, Any]],
    answer_text: str,
    task: Task,
    search: Sequence[Path] = (),
) -> list[Evaluation]:
    """Judge an answer by each evaluator in turn; only a cancellation is raised.

    A chain's every leaf must satisfy ``op`` (no leaf: passed), and without ``op`` it is enough
    that the chain ran. Values compare as in Python and in MCP-Universe: ``true`` equals 1.
    The user's function gets the answer's text and, if its parameters have these names, ``value``,
    ``op_args`` and ``task``. With ``op`` it returns what is compared with ``value``; without, its
    verdict: a bool, ``(bool, reason)`` or ``{"passed": bool, "reason": text}``. A plain function
    runs in a thread, which a cancellation leaves running.
    """
    return [await _evaluate(config, answer_text, task, search) for config in evaluators]


def reward(evaluations: Sequence[Evaluation]) -> float | None:
    """The mean of ``passed``, or None where there is none; ask first whether any is broken."""
    if not evaluations:
        return None
    return sum(evaluation.passed for evaluation in evaluations) / len(evaluations)


async def _evaluate(
    config: Any, answer_text: str, task: Task, search: Sequence[Path]
) -> Evaluation:
    given = config if isinstance(config, dict) else {}
    filled = {name: given.get(name, default) for name, default in _DEFAULTS.items()}
    verdict = partial(Evaluation, filled, _readable(answer_text, MAX_RESPONSE_CHARS))
    try:
        _refuse(_problems(config))
        await _judge(filled, answer_text, task, search)
    except _WrongAnswerError as error:
        return verdict(passed=False, reason=_readable(str(error), _MAX_REASON_CHARS))
    except (_BrokenError, ConfigError) as error:
        text = _readable(str(error), _MAX_REASON_CHARS)
        return verdict(passed=False, error=text, broken=True)
    except Exception as error:  # noqa: BLE001 - a value of the user's may do anything when touched
        text = _readable(explain(error), _MAX_REASON_CHARS)
        return verdict(passed=False, error=text, broken=True)
    return verdict(passed=True)


async def _judge(
    config: dict[str, Any], answer_text: str, task: Task, search: Sequence[Path]
) -> None:
    func, op, value = config["func"], config["op"], config["value"]
    if not _is_reference(func):
        leaves = _run_chain(func, answer_text)
    else:
        returned = await _call(config, answer_text, task, search)
        if not op:
            _accept_verdict(func, returned)
        leaves = [returned]
    for leaf in leaves if op else ():
        _compare(leaf, op, value)


# What can be seen without an answer.


def _problems(config: Any) -> list[str]:
    if not isinstance(config, dict):
        return [f"expected an object, got {_show(config)}"]
    problems = _misspelt_keys(config)
    if "func" not in config:
        return [*problems, "func is missing: write a chain such as json -> get(answer)"]
    texts = [name for name in ("func", "op", "desc") if not isinstance(config.get(name, ""), str)]
    if texts:
        return problems + [f"{name}: expected a text, got {_show(config[name])}" for name in texts]
    problems += _func_problems(config["func"])
    problems += _template_problems(config)
    return problems + _op_problems(config.get("op", ""), config.get("value"))


def _template_problems(config: dict[Any, Any]) -> list[str]:
    """MCP-Universe renders these; unrendered, they would be compared as they stand."""
    return [
        f"{name}: templates such as {{{{ NAME }}}} are not supported in this version yet"
        for name in ("value", "op_args")
        if re.search(r"\{\{.*\}\}", str(config.get(name, "")))
    ]


def _misspelt_keys(config: dict[Any, Any]) -> list[str]:
    """Keys far from all of ours are somebody's extras, which MCP-Universe drops too."""
    problems = []
    for key in config.keys() - _DEFAULTS.keys():
        near = difflib.get_close_matches(str(key), _DEFAULTS, 1)
        if near:
            problems.append(f"unknown key {key!r:.100}: did you mean {near[0]!r}?")
    return sorted(problems)


def _is_reference(func: str) -> bool:
    return ":" in func.partition("(")[0] and "->" not in func


def _func_problems(func: str) -> list[str]:
    try:
        if _is_reference(func):
            split(func)
        else:
            _parse(func)
    except (ConfigError, _BrokenError) as error:
        return [f"func: {error}"]
    return []


def _function_problems(reference: str, search: Sequence[Path]) -> list[str]:
    try:
        function = locate(reference, search)
    except ConfigError as error:
        return [f"func: {error}"]
    return [] if callable(function) else [f"func: {reference!r} is not a function"]


def _op_problems(op: str, value: Any) -> list[str]:
    if op and op not in _OPS:
        return [_unknown_op(op)]
    if op == "in" and not isinstance(value, (str, list, tuple)):
        return [f"value: 'in' looks into a list or a text, got {_show(value)}"]
    if isinstance(value, float) and math.isnan(value) and op in _OPS:
        return ["value: NaN is equal to nothing and neither more nor less; give a number"]
    if op in _ORDERS and not isinstance(value, (int, float, str)):
        return [f"value: {op!r} needs a number or a text, got {_show(value)}"]
    return []


def _unknown_op(op: str) -> str:
    known = f"known are {' '.join(_OPS)}"
    if re.fullmatch(r"\w+[._][\w.]+", op):
        return (
            f"op: {op!r:.100} looks like one of MCP-Universe's domain checks, which need "
            f"the mcpuniverse engine; it is not in this version. Here {known}"
        )
    return f"op: unknown operator {op!r:.100}; {known}"


def _refuse(problems: list[str]) -> None:
    if problems:
        raise _BrokenError("; ".join(problems))


# Chains. Each step takes one leaf and gives those that follow from it.


def _parse(func: str) -> list[tuple[str, str]]:
    """``(name, argument)`` of each step; a missing argument is an empty text."""
    return [_parse_step(text.strip()) for text in func.split("->") if text.strip()]


def _parse_step(text: str) -> tuple[str, str]:
    match = _STEP.fullmatch(text)
    if match is None and ":" in text.partition("(")[0]:
        raise _BrokenError(f"{text!r:.100}: a function of your own stands alone, not in a chain")
    if match is None:
        raise _BrokenError(f"{text!r:.100} is not a step: write name or name(argument)")
    name, arguments = match.groups()
    if name not in _STEPS:
        near = difflib.get_close_matches(name, _STEPS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_STEPS)}"
        raise _BrokenError(f"unknown function {name!r:.100}: {hint}")
    if name == "get" and arguments is None:
        raise _BrokenError("get needs a key: write get(key)")
    return name, (arguments or "").split(",")[0].strip()


def _run_chain(func: str, answer_text: str) -> list[Any]:
    leaves: list[Any] = [answer_text]
    for name, argument in _parse(func):
        step = _STEPS[name]
        leaves = [result for leaf in leaves for result in step(leaf, argument)]
    return leaves


def _json(leaf: Any, _argument: str) -> list[Any]:
    """Fenced blocks of Markdown are unwrapped first, as MCP-Universe does."""
    _expect(leaf, str, "json needs a text")
    text = leaf.strip().strip("`").strip().removeprefix("json").strip()
    try:
        return [json.loads(text)]
    except RecursionError:
        raise _WrongAnswerError("the answer is JSON nested too deeply") from None
    except ValueError as error:
        raise _WrongAnswerError(f"the answer is not JSON: {error}") from None


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
        raise _WrongAnswerError(f"{need}, the answer has {_show(leaf)} there")


_STEPS: dict[str, Callable[[Any, str], list[Any]]] = {
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
        raise TypeError("neither a list nor a text")
    return value in leaf


_ORDERS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_OPS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    **_ORDERS,
    "in": _is_in,
    "contain": _contains,
}


def _compare(leaf: Any, op: str, value: Any) -> None:
    try:
        passed = bool(_OPS[op](leaf, value))
    except (Exception, SystemExit) as error:
        if isinstance(error, (TypeError, RecursionError)) and type(leaf) in _JSON_TYPES:
            told = f"{_show(leaf)} cannot be compared: {op} {_show(value)}"
            raise _WrongAnswerError(told) from None
        raise _BrokenError(f"comparing by {op!r} fails: {explain(error)}") from error
    if not passed:
        raise _WrongAnswerError(f"{_show(leaf)} does not satisfy: {op} {_show(value)}")


# The user's own functions.


async def _call(
    config: dict[str, Any], answer_text: str, task: Task, search: Sequence[Path]
) -> Any:
    func = config["func"]
    offered = {"value": config["value"], "op_args": config["op_args"], "task": task}
    # The import may be slow too, hence it happens in the thread.
    from agentpipe.thread import call_in_thread

    # In a list, so that the thread does not await a coroutine: it belongs to this loop.
    (result,) = await call_in_thread(lambda: [_call_now(func, search, answer_text, offered)])
    if not inspect.isawaitable(result):
        return result
    try:
        return await result
    except asyncio.CancelledError as error:
        current = asyncio.current_task()
        if current is None or current.cancelling():
            raise
        raise _failed(func, error) from None  # nobody cancelled us: the function raised it
    except (Exception, SystemExit) as error:
        raise _failed(func, error) from error


def _call_now(func: str, search: Sequence[Path], answer_text: str, offered: dict[str, Any]) -> Any:
    """Nothing but our errors may leave the thread: SystemExit would end the worker's loop."""
    try:
        function = locate(func, search)
        wanted = {name: offered[name] for name in _parameters(function) if name in offered}
        return function(answer_text, **wanted)
    except ConfigError:
        raise
    except BaseException as error:
        raise _failed(func, error) from error


def _parameters(function: Callable[..., Any]) -> list[str]:
    """All but the first, which takes the answer whatever its name."""
    try:
        return list(inspect.signature(function).parameters)[1:]
    except ValueError:  # some functions written in C have no signature
        return []


def _failed(func: str, error: BaseException) -> _BrokenError:
    return _BrokenError(f"{func} raised {explain(error)}")


def _accept_verdict(func: str, returned: Any) -> None:
    passed, reason = _verdict(returned)
    if type(passed) is not bool or type(reason) is not str:
        raise _BrokenError(
            f"{func} returned {_show(returned)}: without an op, return a bool, (bool, reason) "
            'or {"passed": bool, "reason": text}'
        )
    if not passed:
        raise _WrongAnswerError(reason or f"{func} returned false")


def _verdict(returned: Any) -> tuple[Any, Any]:
    if type(returned) is bool:
        return returned, ""
    if type(returned) is dict:
        return returned.get("passed"), returned.get("reason", "")
    if type(returned) is tuple and len(returned) == len(("passed", "reason")):
        return returned
    return None, None


# Texts that are safe in a record.

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 120


def _show(value: Any) -> str:
    try:
        return f"{_SHORT.repr(value)}"
    except (Exception, SystemExit):  # noqa: BLE001 - the user's __repr__ may raise anything
        return f"a {type(value).__name__}"


def _readable(text: str, max_chars: int) -> str:
    if len(text) > max_chars:
        text = f"{text[:max_chars]}... (cut, {len(text):,} characters in all)"
    # Half a surrogate pair, as JSON's \ud800 gives, cannot be written as UTF-8.
    return text.encode("utf-8", "backslashreplace").decode()
