"""HeldTokens: the token ids of conversations up to an answer, found by their messages."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Enough for the main agent and the sub-agents that alternate with it. Each entry holds a whole
# conversation. An older conversation is tokenized from its text again, in a separate row.
KEPT = 8
_OF_TEMPLATE = ("tools", "chat_template_kwargs", "chat_template", "tool_choice")


@dataclass(frozen=True, slots=True)
class HeldConversation:
    """A conversation up to an answer.

    Attributes:
        ids: All ids of its prompt, and all sampled ids.
        messages: Number of messages, including the answer.
    """

    ids: list[int]
    messages: int


class HeldTokens:
    """The most recent conversations of a run."""

    def __init__(self) -> None:
        self._held: OrderedDict[bytes, HeldConversation] = OrderedDict()

    def keep(self, asked: Mapping[str, Any], answer: Mapping[str, Any], ids: list[int]) -> None:
        """Keep the token ids of a request with its answer."""
        messages = [*asked["messages"], answer]
        *_, digest = _digests({**asked, "messages": messages})
        self._held[digest] = HeldConversation(ids, len(messages))
        self._held.move_to_end(digest)
        while len(self._held) > KEPT:
            self._held.popitem(last=False)

    def longest(self, asked: Mapping[str, Any]) -> HeldConversation | None:
        """The longest held conversation that a request continues."""
        found = [self._held[digest] for digest in _digests(asked) if digest in self._held]
        continued = [held for held in found if held.messages < len(asked["messages"])]
        return continued[-1] if continued else None


def _digests(asked: Mapping[str, Any]) -> Iterator[bytes]:
    """A digest for each prefix of a conversation."""
    template = {name: asked.get(name) for name in _OF_TEMPLATE}
    digest = hashlib.blake2b(_encoded(template), digest_size=16).digest()
    for message in asked["messages"]:
        digest = hashlib.blake2b(digest + _encoded(_compared(message)), digest_size=16).digest()
        yield digest


def _encoded(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _compared(message: Any) -> Any:
    """The parts of an answer that clients return, in a normalized form."""
    if not isinstance(message, dict) or message.get("role") != "assistant":
        return message
    calls = message.get("tool_calls")
    compared = [_call(call) for call in calls] if isinstance(calls, list) else []
    return {"answer": message.get("content") or "", "calls": compared}


def _call(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return call
    return [call.get("id"), function.get("name"), _arguments(function.get("arguments"))]


def _arguments(text: Any) -> Any:
    """The parsed arguments, because clients can change the whitespace."""
    try:
        return orjson.loads(text)
    except (TypeError, ValueError):
        return text
