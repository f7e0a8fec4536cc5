"""The protocols that model servers speak, each in a module of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from agentpipe.engines.models import anthropic_messages, openai_chat

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agentpipe.engines.models.conversation import Conversation, Response
    from agentpipe.engines.models.providers import Provider


class JoinedStream(Protocol):
    """The answer that a stream's events make up."""

    def add(self, event: Any) -> None:
        """Take the next event.

        Raises:
            UnreadableResponse: It is malformed.
        """

    def whole(self) -> dict[str, Any]:
        """The answer as it would have come in one piece.

        Raises:
            IncompleteResponse: The stream ended before the answer did.
        """


class WireProtocol(Protocol):
    """What one of the modules holds.

    Attributes:
        PATH: After the base URL.
        END: The event that ends a stream; empty if there is none.
        Joined: Reads one stream.
    """

    @property
    def PATH(self) -> str: ...  # noqa: N802, D102 - a module's constant
    @property
    def END(self) -> str: ...  # noqa: N802, D102 - likewise
    @property
    def Joined(self) -> Callable[[], JoinedStream]: ...  # noqa: N802, D102 - a module's class

    def headers(self, key: str) -> dict[str, str]:
        """The credential's headers."""

    def body(
        self,
        conversation: Conversation,
        model: str,
        provider: Provider,
        *,
        stream: bool,
        token_ids: bool = False,
    ) -> Mapping[str, Any]:
        """The request for the conversation's next response; with ``token_ids``, also for its ids.

        A protocol that knows no ids ignores that.
        """

    def read(self, answer: Any) -> Response:
        """The response in a server's answer.

        Raises:
            UnreadableResponse: There is none in it.
        """

    def error_in(self, answer: Any) -> Any:
        """The error object in an answer or in an event; None if it has none."""


PROTOCOLS: Mapping[str, WireProtocol] = {"openai": openai_chat, "anthropic": anthropic_messages}
