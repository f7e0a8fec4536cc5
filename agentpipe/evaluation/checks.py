"""Checks evaluators without an answer; each mistake is one sentence."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from agentpipe.config.imports import split
from agentpipe.config.mcp_universe_names import names
from agentpipe.core.did_you_mean import did_you_mean, nearest
from agentpipe.core.numbers import is_number
from agentpipe.errors import ConfigError
from agentpipe.evaluation.chain import BrokenEvaluatorError, op_problems, parse_chain, show
from agentpipe.evaluation.functions import function_problems, is_reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.config.function_scope import FunctionScope
    from agentpipe.core.context import Context

MAX_EVALUATORS = 1000
MAX_KEYS = 50

# The keys of MCP-Universe's evaluators, with their defaults.
PEERS: dict[str, Any] = {"func": "", "op": "", "value": None, "op_args": None, "desc": ""}
KEYS = (*PEERS, "name", "weight")
# Keys whose ``{{ NAME }}`` placeholders are replaced.
RENDERED = ("value", "op_args")


def evaluator_problems(
    evaluators: Sequence[dict[str, Any]], scope: FunctionScope | None = None
) -> list[str]:
    """Mistakes in evaluators that are visible without an answer, one sentence each.

    With a ``scope``, the user's functions are looked up in its files, but not imported.
    """
    if problem := too_many(evaluators):
        return [problem]
    problems = _clashes(evaluators)
    for index, config in enumerate(evaluators):
        found = problems_of(config)
        if not found and is_reference(config["func"]):
            found = function_problems(config["func"], scope)
        problems += [f"evaluators[{index}]: {problem}" for problem in found]
    return problems


def hidden_problems(config: dict[str, Any], context: Context) -> list[str]:
    """Values that an evaluator uses but tasks may not read, one sentence each, with the remedy."""
    return [
        f"{name}: {problem}"
        for name in RENDERED
        for problem in context.hidden_problems(config.get(name))
    ]


def too_many(evaluators: Sequence[dict[str, Any]]) -> str:
    """The problem if there are too many evaluators; empty within ``MAX_EVALUATORS``."""
    count = len(evaluators)
    if count <= MAX_EVALUATORS:
        return ""
    return f"evaluators: {count:,} of them, at most {MAX_EVALUATORS:,} are allowed"


def too_many_keys(config: dict[str, Any]) -> str:
    """The problem if an evaluator has too many keys; empty within ``MAX_KEYS``."""
    if len(config) <= MAX_KEYS:
        return ""
    return f"an evaluator of {len(config):,} keys: at most {MAX_KEYS} are allowed"


def problems_of(config: Any) -> list[str]:
    """The mistakes of one evaluator, except a function that does not exist."""
    if not isinstance(config, dict):
        return [f"expected an object, got {show(config)}"]
    if problem := too_many_keys(config):
        return [problem]
    problems = _misspelt_keys(config)
    if "func" not in config:
        return [*problems, "func is missing: write a chain such as json -> get(answer)"]
    wrong = [name for name in ("func", "op", "desc") if not isinstance(config.get(name, ""), str)]
    if wrong:
        return problems + [f"{name}: expected a string, got {show(config[name])}" for name in wrong]
    problems += _func_problems(config["func"]) + _mark_problems(config)
    op = config.get("op", "")
    if op in names().operators and is_reference(config["func"]):
        problems.append(f"op: {op!r} compares the result of a chain, not of a function")
    return problems + op_problems(op, config.get("value"))


def _mark_problems(config: dict[str, Any]) -> list[str]:
    """Problems of ``name`` and ``weight``, which decide how it counts towards the reward."""
    problems = []
    if "name" in config and not (isinstance(config["name"], str) and config["name"].strip()):
        problems.append(f"name: expected a string that is not empty, got {show(config['name'])}")
    weight = config.get("weight", 1.0)
    if not is_number(weight) or not 0 < weight <= sys.float_info.max:
        problems.append(f"weight: expected a number above 0, got {show(weight)}")
    return problems


def _clashes(evaluators: Sequence[Any]) -> list[str]:
    """Names that two evaluators share: a Result has one reward per name."""
    first: dict[str, int] = {}
    problems = []
    for index, config in enumerate(evaluators):
        name = config.get("name") if isinstance(config, dict) else None
        if isinstance(name, str) and first.setdefault(name, index) != index:
            problems.append(
                f"evaluators[{index}]: name: {name!r:.100} is also that of "
                f"evaluators[{first[name]}]: choose another"
            )
    return problems


def _misspelt_keys(config: dict[Any, Any]) -> list[str]:
    """Unknown keys that look misspelt; others pass, because MCP-Universe's files contain some."""
    return sorted(
        f"unknown key {key!r:.100}: {did_you_mean(key, KEYS)}"
        for key in config.keys() - KEYS
        if nearest(key, KEYS)
    )


def _func_problems(func: str) -> list[str]:
    try:
        if is_reference(func):
            split(func)
        else:
            parse_chain(func)
    except (ConfigError, BrokenEvaluatorError) as error:
        return [f"func: {error}"]
    return []
