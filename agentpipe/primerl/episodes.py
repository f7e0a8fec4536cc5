"""Episodes: a Result as a prime-rl episode with the sampled token ids, or as an error.

The names are those of ``verifiers.v1`` 0.4: an episode has one trace, whose nodes are messages,
each with the ids that it added. A row of the rollout is a chain of nodes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe import __version__
from agentpipe.core.groups import is_good
from agentpipe.core.timestamps import seconds_of
from agentpipe.core.transcript import requests_of
from agentpipe.errors import FormatError
from agentpipe.primerl.requests import data_of
from agentpipe.rollouts import samples

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from agentpipe.core.result import Result
    from agentpipe.core.transcript import ModelRequest
    from agentpipe.rollouts import Sample

DELTA, REPLY = b"delta", b"reply"
CANCELLED = "Cancelled: rollout aborted"
_FINISHES = ("stop", "length", "tool_calls")
# Verifiers' names for the limit that cut a run short.
_STOPS = {
    "turns": "max_turns",
    "tokens": "max_total_tokens",
    "time": "agent_timeout",
}
_ENDED = "agent_completed"

Message = dict[str, Any]


def answer_of(result: Result, env: str) -> list[tuple[bytes, dict[str, Any]]]:
    """The messages sent to a client for a Result: the episode if it can train, else the reason.

    A failure never has a reward, whether of the infrastructure or of the agent.

    Raises:
        FormatError: Its rollout is malformed.
    """
    if result.outcome == "cancelled":
        return [(REPLY, refusal(CANCELLED))]
    rows = samples(result) if is_good(result) else []
    if not rows:
        return [(REPLY, _reply(_head(result, env, errors=[_error(result)]), []))]
    trace = _trace(result, rows)
    sizes = {name: len(trace[name]) for name in ("nodes", "calls")}
    # If a server ended while it sent an answer, the client may have a part of it: discard that.
    anew = {"trace": result.task_id, "discard": True}
    return [
        (DELTA, anew),
        (DELTA, trace),
        (REPLY, _reply(_head(result, env, errors=[]), [{"id": result.task_id, **sizes}])),
    ]


def refusal(error: str) -> dict[str, Any]:
    """The reply to a request that fails."""
    return {"success": False, "error": error}


def _reply(head: dict[str, Any], traces: list[dict[str, Any]]) -> dict[str, Any]:
    return {"success": True, "error": None, "head": head, "traces": traces}


def _head(result: Result, env: str, *, errors: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": result.task_id,
        "env": {"id": env, "name": None},
        "task": _task(result),
        "ok": not errors,
        "is_timeout": False,
        "errors": errors,
    }


def _task(result: Result) -> dict[str, Any]:
    data = data_of(result.task or {}, result.metadata)
    return {"type": "Task", "data": data, "key": None, "hash": None}


def _error(result: Result) -> dict[str, Any]:
    error = result.error or {}
    texts = [str(error[name]) for name in ("type", "message") if error.get(name)]
    return {"type": result.outcome, "message": ": ".join(texts) or _lack(result)}


def _lack(result: Result) -> str:
    """Why a run without an error cannot train."""
    if not result.reward_trustworthy:
        return "no evaluator could judge the answer: a task needs evaluators"
    return "the serving engine did not give the token ids of all that it sampled"


def _trace(result: Result, rows: Sequence[Sample]) -> dict[str, Any]:
    """The whole trace as one delta."""
    rollout = result.rollout or {}
    try:
        nodes, calls = _Graph(result).add(rows)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise FormatError(f"rollout.segments: malformed: {error!r}") from error
    stop = _STOPS.get(str(rollout.get("stop")), _ENDED)
    return {
        "trace": result.task_id,
        "open": {
            "version": 1,
            "id": result.task_id,
            "verifiers": {"version": f"agentpipe {__version__}", "commit": None},
            "task": _task(result),
        },
        "nodes": nodes,
        "calls": calls,
        "set": {
            "agent": _agent(rollout),
            "rewards": {"reward": {"score": result.reward, "weight": 1.0}},
            "metrics": dict(result.rewards),
            "info": {"agentpipe": _info(result)},
            "is_completed": True,
            "ok": True,
            "stop_condition": stop,
            "timing": _timing(result),
        },
    }


def _agent(rollout: Mapping[str, Any]) -> dict[str, Any]:
    harness, runtime = {"id": "agentpipe"}, {"type": "subprocess"}
    config = {"model": rollout.get("model"), "harness": harness, "runtime": runtime}
    return {"config": config, "name": "agent", "trainable": True}


def _info(result: Result) -> dict[str, Any]:
    names = ("task_id", "agent", "worker", "attempt", "outcome", "usage_total")
    known = {name: getattr(result, name) for name in names}
    return {**known, "versions": (result.rollout or {}).get("versions")}


def _timing(result: Result) -> dict[str, Any]:
    start, end = seconds_of(result.started_at) or 0.0, result.finished or 0.0
    return {"start": start, "agent": {"start": start, "end": end}}


class _Graph:
    """Makes nodes and calls from rows.

    Each row is a separate chain, which verifiers calls a branch and takes as a sample.
    """

    def __init__(self, result: Result) -> None:
        self._segments = (result.rollout or {})["segments"]
        self._model = (result.rollout or {}).get("model")
        self._requests = {str(it.span.get("id")): it for it in requests_of(result.trace)}
        self._time = result.finished or 0.0
        self._nodes: list[dict[str, Any]] = []
        self._calls: list[dict[str, Any]] = []

    def add(self, rows: Sequence[Sample]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        for row in rows:
            self._add(row, self._segments[row.segment])
        return self._nodes, self._calls

    def _add(self, row: Sample, segment: Mapping[str, Any]) -> None:
        ends: dict[int, int] = dict(segment["sampled"])
        parent, done = None, 0
        for turn in segment["turns"]:
            begin = turn["at"]
            end = ends.get(begin, begin)  # A turn whose tokens were rewritten has no sampled ids.
            request = self._requests.get(str(turn.get("span")))
            parent = self._context(row, (done, begin), parent, _asked(request, is_first=not done))
            parent = self._node(row, (begin, end), parent, _said(request), sampled=True)
            self._calls.append(self._call(turn, parent, (begin, end)))
            done = end
        if done < len(row.input_ids):
            self._context(row, (done, len(row.input_ids)), parent, [])

    def _context(
        self, row: Sample, place: tuple[int, int], parent: int | None, messages: list[Message]
    ) -> int | None:
        """The last message gets all the ids: a record does not say which message has which."""
        *before, last = messages or [{"role": "user", "content": ""}]
        for message in before:
            parent = self._node(row, (0, 0), parent, message)
        return self._node(row, place, parent, last)

    def _node(
        self,
        row: Sample,
        place: tuple[int, int],
        parent: int | None,
        message: Message,
        *,
        sampled: bool = False,
    ) -> int:
        part = slice(*place)
        mask = row.loss_mask[part]
        logprobs = zip(row.logprobs[part], mask, strict=True)
        node = {
            "parent": parent,
            "message": message,
            "sampled": sampled,
            "timestamp": self._time,
            "token_ids": row.input_ids[part],
            "mask": [each == 1 for each in mask],
            "logprobs": [value for value, is_sampled in logprobs if is_sampled],
        }
        self._nodes.append(node)
        return len(self._nodes) - 1

    def _call(self, turn: Mapping[str, Any], node: int, place: tuple[int, int]) -> dict[str, Any]:
        begin, end = place
        finish = turn.get("finish")
        sampling = {name: turn.get(name) for name in ("temperature", "top_p")}
        return {
            "node": node,
            "model": self._model,
            "sampling": sampling,
            "finish_reason": finish if finish in _FINISHES else None,
            "usage": {"prompt_tokens": begin, "completion_tokens": end - begin},
        }


def _asked(request: ModelRequest | None, *, is_first: bool) -> list[Message]:
    """The messages that a request added to its row: all of them if it is the row's first."""
    if request is None:
        return []
    return list(map(_message, request.messages if is_first else request.new))


def _said(request: ModelRequest | None) -> Message:
    answer = None if request is None else request.answer
    return _message(answer or {"role": "assistant", "content": None})


def _message(message: Mapping[str, Any]) -> Message:
    """A message in verifiers' form, which has four roles."""
    role, text = message.get("role"), _text(message.get("content"))
    if role == "assistant":
        calls = list(_calls(message.get("tool_calls")))
        return {"role": role, "content": text or None, **({"tool_calls": calls} if calls else {})}
    if role == "tool":
        return {"role": role, "tool_call_id": str(message.get("tool_call_id", "")), "content": text}
    return {"role": "system" if role in ("system", "developer") else "user", "content": text}


def _text(content: Any) -> str:
    """The text of the content, or of its text parts."""
    if isinstance(content, list):
        parts = (each.get("text") for each in content if isinstance(each, dict))
        return "\n".join(text for text in parts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _calls(calls: Any) -> Iterator[dict[str, Any]]:
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function", {})
        yield {
            "id": str(call.get("id", "")),
            "name": str(function.get("name", "")),
            "arguments": str(function.get("arguments", "")),
        }
