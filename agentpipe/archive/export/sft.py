"""Conversations for training: one JSON object per line, with the task's id and its reward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.archive.export.columns import number_of
from agentpipe.archive.export.conversation import conversation_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import BinaryIO

    from agentpipe.core.result import Result


def write_sft(
    results: Iterable[Result], file: BinaryIO, min_reward: float | None = None
) -> tuple[int, int]:
    """Write one line per complete conversation; returns the numbers written and left out.

    Args:
        results: Consumed one by one.
        file: Left open.
        min_reward: Leave out results with a lower reward or without one.
    """
    written = left_out = 0
    for result in results:
        line = _line(result) if _is_worth(result, min_reward) else None
        if line is None:
            left_out += 1
            continue
        file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        written += 1
    return written, left_out


def _is_worth(result: Result, min_reward: float | None) -> bool:
    return min_reward is None or (result.reward is not None and result.reward >= min_reward)


def _line(result: Result) -> dict[str, Any] | None:
    """The line; None if something is missing: a model would learn to continue without it."""
    conversation = conversation_of(result)
    if conversation is None or not conversation.complete or _is_cut(result):
        return None
    if conversation.messages[-1]["role"] != "assistant":
        return None
    return {
        "messages": conversation.messages,
        # Tool schemas differ in their types, but readers of JSON lines want one type per field.
        "tools": orjson.dumps(conversation.tools).decode() if conversation.tools else None,
        "task_id": result.task_id,
        "reward": number_of(result.reward),
        "group": result.group_id,
    }


def _is_cut(result: Result) -> bool:
    fields = (result.truncated or {}).get("fields")
    return isinstance(fields, list) and not {"trace", "result"}.isdisjoint(map(str, fields))
