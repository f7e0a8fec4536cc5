"""Sampling: the model-call settings that a task can give, and the valid values of each.

A task chooses only how its answer is sampled. It cannot set the model, messages, tools, headers,
the address or the number of answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe.core.did_you_mean import did_you_mean
from agentpipe.core.numbers import is_integer, is_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MAX_STOPS, MAX_STOP_CHARS = 16, 1_000
MAX_TOP_LOGPROBS = 20
# From the cheapest to the most expensive.
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

_Check = tuple[str, "Callable[[Any], bool]"]


def _number(least: float, most: float) -> _Check:
    def accepts(value: Any) -> bool:
        return is_number(value) and least <= value <= most  # NaN is outside every range.

    return f"a number from {least:g} to {most:g}", accepts


def _whole(least: int, most: int) -> _Check:
    def accepts(value: Any) -> bool:
        return is_integer(value) and least <= value <= most

    return f"an integer from {least:,} to {most:,}", accepts


def _are_stops(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MAX_STOPS
        and all(isinstance(each, str) and 0 < len(each) <= MAX_STOP_CHARS for each in value)
    )


_FLAG: _Check = ("true or false", lambda value: isinstance(value, bool))
SETTINGS: Mapping[str, _Check] = {
    "temperature": _number(0, 100),
    "top_p": _number(0, 1),
    "top_k": _whole(-1, 1_000_000),
    "min_p": _number(0, 1),
    "max_tokens": _whole(1, 1_000_000_000),
    "seed": _whole(-(2**63), 2**63 - 1),
    "frequency_penalty": _number(-100, 100),
    "presence_penalty": _number(-100, 100),
    "repetition_penalty": _number(0, 100),
    "stop_sequences": (
        f"up to {MAX_STOPS} strings of 1 to {MAX_STOP_CHARS:,} characters",
        _are_stops,
    ),
    "parallel_tool_calls": _FLAG,
    "reasoning_effort": (f"one of {', '.join(EFFORTS)}", EFFORTS.__contains__),
    "logprobs": _FLAG,
    "top_logprobs": _whole(0, MAX_TOP_LOGPROBS),
}


def sampling_problems(sampling: Mapping[str, Any]) -> list[str]:
    """Return one sentence per invalid entry of a task's ``sampling``."""
    return list(_problems(sampling))


def _problems(sampling: Mapping[str, Any]) -> Iterator[str]:
    for name, value in sampling.items():
        if name not in SETTINGS:
            hint = did_you_mean(str(name)[:40], SETTINGS)
            yield f"sampling: a task cannot set {str(name)[:40]!r}: {hint}"
        elif not SETTINGS[name][1](value):
            yield f"sampling: {name}: expected {SETTINGS[name][0]}"


def within(sampling: Mapping[str, Any], owners: Mapping[str, Any]) -> dict[str, Any]:
    """Cap ``sampling`` at the agent owner's limits: a task can lower them, never raise them.

    ``owners`` are the agent's own settings.
    """
    asked = dict(sampling)
    if "max_tokens" in asked and "max_tokens" in owners:
        asked["max_tokens"] = min(asked["max_tokens"], owners["max_tokens"])
    efforts = (asked.get("reasoning_effort"), owners.get("reasoning_effort"))
    if None not in efforts:
        asked["reasoning_effort"] = _lower(*efforts)
    return asked


def _lower(asked: Any, owners: Any) -> Any:
    """Return the owner's value, unless the task's value is known to be lower."""
    known = asked in EFFORTS and owners in EFFORTS
    return asked if known and EFFORTS.index(asked) < EFFORTS.index(owners) else owners
