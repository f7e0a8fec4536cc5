"""A user's function as an evaluator: import it, call it in a thread."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

from agentpipe.config.imports import explain
from agentpipe.errors import ConfigError
from agentpipe.evaluation.chain import BrokenEvaluatorError

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.config.function_scope import FunctionScope
    from agentpipe.core.task import Task

# What a function may have beside the answer.
OFFERED = ("value", "op_args", "task")


def is_reference(func: str) -> bool:
    """Whether ``func`` names a user's function rather than a chain."""
    return ":" in func.partition("(")[0] and "->" not in func


def function_problems(reference: str, scope: FunctionScope | None) -> list[str]:
    """Why tasks may not name a function, and the mistakes that its file shows.

    Nothing is imported. Without a scope, or with one of another machine, only names are checked.
    """
    from agentpipe.config.definitions import problem_of_function  # Few senders need it.
    from agentpipe.config.function_scope import flaw_of

    if scope is None or not scope.is_here:
        problem = flaw_of(reference, scope.modules if scope else ())
    else:
        problem = problem_of_function(reference, scope, OFFERED)
    return [f"func: {problem}"] if problem else []


async def call_function(
    config: dict[str, Any], answer_text: str, task: Task, scope: FunctionScope | None
) -> Any:
    """Call the function and return its result.

    Raises:
        BrokenEvaluatorError: The function raised.
        ConfigError: There is no such function, or tasks may not name it.
    """
    func = config["func"]
    if scope is None:
        raise ConfigError(f"{func!r}: no collection offers functions here")
    offered = {"value": config["value"], "op_args": config["op_args"], "task": task}
    # The import may be slow as well, so it runs in the thread.
    from agentpipe.core.agent_thread import call_in_thread

    # In a list, so that the thread does not await a coroutine: it belongs to this loop.
    (result,) = await call_in_thread(lambda: [_call_now(func, scope, answer_text, offered)])
    if not inspect.isawaitable(result):
        return result
    try:
        return await result
    except asyncio.CancelledError as error:
        current = asyncio.current_task()
        if current is None or current.cancelling():
            raise
        raise _failed(func, error) from None  # not a cancellation of ours: the function raised it
    except GeneratorExit:
        raise  # the coroutine is closed
    except BaseException as error:
        raise _failed(func, error) from error


def _call_now(func: str, scope: FunctionScope, answer_text: str, offered: dict[str, Any]) -> Any:
    """Only our errors may leave the thread: SystemExit would end the worker's event loop."""
    try:
        function = _function(func, scope)
        wanted = {name: offered[name] for name in _parameters(function) if name in offered}
        if "task" in wanted:
            wanted["task"] = wanted["task"].unshared()
        return function(answer_text, **wanted)
    except ConfigError:
        raise
    except BaseException as error:
        raise _failed(func, error) from error


def _function(func: str, scope: FunctionScope) -> Callable[..., Any]:
    """Its file is read first: the import runs what it names, so it must be there."""
    from agentpipe.config.definitions import is_defined, problem_of_function

    if problem := problem_of_function(func, scope, OFFERED):
        raise ConfigError(problem)
    function: Callable[..., Any] = scope.locate(func, defined=is_defined(func, scope))
    return function


def _parameters(function: Callable[..., Any]) -> list[str]:
    """All but the first, which takes the answer."""
    try:
        return list(inspect.signature(function).parameters)[1:]
    except ValueError:  # some functions written in C have no signature
        return []


def _failed(func: str, error: BaseException) -> BrokenEvaluatorError:
    return BrokenEvaluatorError(f"{func} raised {explain(error)}")
