"""AskedMessages: the messages that each request adds to a run's conversation, for the trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class AskedMessages:
    """The messages of the last request."""

    def __init__(self) -> None:
        self._known: list[Any] = []

    def new_in(self, sent: Mapping[str, Any]) -> list[Any]:
        """Messages added since the last request; all of them if the conversation was restarted."""
        given = sent.get("messages")
        messages = given if isinstance(given, list) else []
        known, self._known = self._known, messages
        begun = known and messages[: len(known)] == known
        return [it for it in messages[len(known) :] if not _is_answer(it)] if begun else messages


def _is_answer(message: Any) -> bool:
    """Whether the message is a response, which the span of its own request already has."""
    return isinstance(message, dict) and message.get("role") == "assistant"
