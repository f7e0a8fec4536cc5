"""KeptAnswer: an answer that waits for its evaluators; it travels with its task.

The agent is not paid twice: a later run only judges the answer. Values of the context never leave
the worker: their names replace them, in a random mark that no answer can guess.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.core.redaction import is_secret
from agentpipe.core.usage import numbers_in
from agentpipe.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.core.redaction import Redactor

_KINDS: dict[str, Any] = {
    "attempt": int,
    "failures": int,
    "trace": list,
    "usage": dict,
    "mark": str,
}


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """The output of a run, except its verdicts.

    Attributes:
        answer: A string or JSON.
        attempt: The run that gave it.
        failures: Failures of its task up to then; later failures belong to the evaluators.
        usage: The cost of that run.
        trace: Its spans.
        stop: Why the answer ended, if the agent reported it.
        by_agent: Whether the agent's own process evaluates it.
        rollout: Its token ids, if they were recorded.
    """

    answer: Any
    attempt: int
    failures: int
    usage: dict[str, Any] = field(default_factory=dict)
    trace: list[dict[str, Any]] = field(default_factory=list)
    stop: str | None = None
    by_agent: bool = False
    rollout: dict[str, Any] | None = None

    def sealed(self, env: Mapping[str, str], redactor: Redactor) -> dict[str, Any] | None:
        """Encode as JSON without credentials; None if the answer has one that cannot be replaced.

        The trace is masked, as in a Result: evaluators do not read it.
        """
        mark = secrets.token_hex(8)
        answer = orjson.loads(orjson.dumps(self.answer))
        for name in _hidden(env):
            answer = _replaced(answer, env[name], f"<{mark}:{name}>")
        if redactor.occurs_in(orjson.dumps(answer)):
            return None
        trace = orjson.loads(orjson.dumps(self.trace))
        masked = redactor.value(trace) if redactor.occurs_in(orjson.dumps(trace)) else trace
        return {
            "answer": answer,
            "attempt": self.attempt,
            "failures": self.failures,
            "usage": self.usage,
            "trace": masked,
            "stop": self.stop,
            "by_agent": self.by_agent,
            "rollout": self.rollout,
            "mark": mark,
        }

    @classmethod
    def opened(cls, data: Mapping[str, Any], env: Mapping[str, str]) -> KeptAnswer:
        """Decode what ``sealed`` encoded, and put the context's values back.

        Raises:
            FormatError: ``data`` is something else.
        """
        wrong = [name for name, kind in _KINDS.items() if not isinstance(data.get(name), kind)]
        if wrong or "answer" not in data:
            raise FormatError(f"answered: {', '.join(wrong) or 'answer'} is missing or wrong")
        answer = data["answer"]
        for name in reversed(_hidden(env)):
            answer = _replaced(answer, f"<{data['mark']}:{name}>", env[name])
        known = {name: data[name] for name in ("attempt", "failures", "trace", "usage")}
        by_agent = data.get("by_agent") is True
        return cls(
            answer=answer,
            **known,
            stop=data.get("stop"),
            by_agent=by_agent,
            rollout=data.get("rollout"),
        )


def kept_usage(sealed: Mapping[str, Any] | None) -> dict[str, float]:
    """The cost of the run that gave the answer; empty without an answer."""
    return numbers_in(sealed.get("usage") if sealed else None)


def begun_again(sealed: Mapping[str, Any]) -> dict[str, Any]:
    """The same answer for a new task, which has no failures yet."""
    return {**sealed, "failures": 0}


def _hidden(env: Mapping[str, str]) -> list[str]:
    """Names of secrets, longest value first; opened in reverse order, because values can nest."""
    names = [name for name, value in env.items() if is_secret(value)]
    return sorted(names, key=lambda name: (-len(env[name]), name))


def _replaced(value: Any, old: str, new: str) -> Any:
    """A copy of JSON with ``old`` replaced in its strings, including keys."""
    if isinstance(value, str):
        return value.replace(old, new)
    if isinstance(value, dict):
        return {_replaced(k, old, new): _replaced(item, old, new) for k, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, old, new) for item in value]
    return value
