"""The conversation that led to a result, in the form of OpenAI's chat completions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.core.outside import encoded
from agentpipe.core.transcript import Transcript, is_complete, records_of, transcripts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.core.result import Result

Message = dict[str, Any]
_KEPT = ("name", "tool_call_id", "tool_calls")


def conversation_of(result: Result) -> Transcript | None:
    """The conversation that ended with the answer, or else the last one.

    For an agent that calls no model, it consists of question and answer; None if one is missing.
    """
    found = transcripts(result.trace)
    if not found:
        return _asked_and_answered(result)
    ends = (each for each in reversed(found) if each.messages[-1].get("content") == result.result)
    chosen = next(ends, found[-1])
    return Transcript(tuple(map(plain, chosen.messages)), chosen.tools, chosen.complete)


def plain(message: Mapping[str, Any]) -> Message:
    """The message with its content as text: parts of other kinds become JSON."""
    kept = {name: message[name] for name in _KEPT if message.get(name)}
    return {"role": str(message.get("role")), "content": text_of(message.get("content")), **kept}


def text_of(content: Any) -> str | None:
    """The text of a message's content, which may be a list of parts."""
    if content is None or isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    return "\n".join(map(_text_of_part, parts))


def _text_of_part(part: Any) -> str:
    text = part.get("text") if isinstance(part, dict) else part
    return text if isinstance(text, str) else encoded(part).decode()


def answer_text(result: Result) -> str:
    """The answer as evaluators see it: the string itself, or its JSON."""
    if result.result is None:
        return ""
    return result.result if isinstance(result.result, str) else orjson.dumps(result.result).decode()


def question_of(result: Result) -> str | None:
    """The question as sent; for results of earlier versions, as in the run's own span."""
    if result.task and (question := text_of(result.task.get("question"))):
        return question
    asked = [(span, _first_message(data)) for span, data in records_of(result.trace)]
    known = [(span, message) for span, message in asked if message is not None]
    of_run = (message for span, message in known if span.get("id") == span.get("parent_id"))
    return text_of(next(of_run, known[0][1] if known else None))


def _first_message(data: Mapping[str, Any]) -> Any:
    messages = data.get("messages") if data.get("type") == "agent" else None
    return messages[0] if isinstance(messages, list) and messages else None


def _asked_and_answered(result: Result) -> Transcript | None:
    question, answer = question_of(result), answer_text(result)
    if not question or not answer:
        return None
    asked = {"role": "user", "content": question}
    answered = {"role": "assistant", "content": answer}
    return Transcript((asked, answered), complete=is_complete(result.trace))
