"""AskedMessages: what each request of a run adds to its conversation, for the trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class AskedMessages:
    """The messages of the last request."""

    def __init__(self) -> None:
        self._known: list[Any] = []

    def new_in(self, sent: Mapping[str, Any]) -> list[Any]:
        """Those since the last request; all of them where it began anew."""
        given = sent.get("messages")
        messages = given if isinstance(given, list) else []
        known, self._known = self._known, messages
        begun = known and messages[: len(known)] == known
        return [it for it in messages[len(known) :] if not _is_answer(it)] if begun else messages


def _is_answer(message: Any) -> bool:
    """A response, which is in the span of its own request."""
    return isinstance(message, dict) and message.get("role") == "assistant"
