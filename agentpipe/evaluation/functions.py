"""A user's function as an evaluator: import it, and call it in a thread."""

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

# Optional parameters of a function, besides the answer.
OFFERED = ("value", "op_args", "task")


def is_reference(func: str) -> bool:
    """Whether ``func`` names a user's function rather than a chain."""
    return ":" in func.partition("(")[0] and "->" not in func


def function_problems(reference: str, scope: FunctionScope | None) -> list[str]:
    """Why tasks may not use a function, and the mistakes visible in its file.

    Nothing is imported. Without a scope, or with a scope of another machine, only names are
    checked.
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
        ConfigError: The function does not exist, or tasks may not use it.
    """
    func = config["func"]
    if scope is None:
        raise ConfigError(f"{func!r}: no collection offers functions here")
    offered = {"value": config["value"], "op_args": config["op_args"], "task": task}
    from agentpipe.core.agent_thread import call_in_thread

    # The user's import can be slow, too, so it runs in the thread. The list keeps the thread from
    # awaiting a coroutine, which belongs to this event loop.
    (result,) = await call_in_thread(lambda: [_call_now(func, scope, answer_text, offered)])
    if not inspect.isawaitable(result):
        return result
    try:
        return await result
    except asyncio.CancelledError as error:
        current = asyncio.current_task()
        if current is None or current.cancelling():
            raise
        raise _failed(func, error) from None  # The function raised it; this run is not cancelled.
    except GeneratorExit:
        raise  # The coroutine is being closed.
    except BaseException as error:
        raise _failed(func, error) from error


def _call_now(func: str, scope: FunctionScope, answer_text: str, offered: dict[str, Any]) -> Any:
    """Call the function; only our errors leave the thread: SystemExit would end the event loop."""
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
    """Import the function, after checking that its file has it: an import runs code."""
    from agentpipe.config.definitions import is_defined, problem_of_function

    if problem := problem_of_function(func, scope, OFFERED):
        raise ConfigError(problem)
    function: Callable[..., Any] = scope.locate(func, defined=is_defined(func, scope))
    return function


def _parameters(function: Callable[..., Any]) -> list[str]:
    """The function's parameters, except the first, which takes the answer."""
    try:
        return list(inspect.signature(function).parameters)[1:]
    except ValueError:  # Some functions written in C have no signature.
        return []


def _failed(func: str, error: BaseException) -> BrokenEvaluatorError:
    return BrokenEvaluatorError(f"{func} raised {explain(error)}")
