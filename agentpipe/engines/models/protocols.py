"""The protocols that model servers speak, one module each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from agentpipe.engines.models import anthropic_messages, openai_chat

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agentpipe.engines.models.conversation import Conversation, Response
    from agentpipe.engines.models.providers import Provider


class JoinedStream(Protocol):
    """The answer that a stream's events build up."""

    def add(self, event: Any) -> None:
        """Add the next event.

        Raises:
            UnreadableResponse: The event is malformed.
        """

    def whole(self) -> dict[str, Any]:
        """Return the answer as if it had arrived in one piece.

        Raises:
            IncompleteResponse: The stream ended before the answer did.
        """


class WireProtocol(Protocol):
    """The members of a protocol's module.

    Attributes:
        PATH: The path after the base URL.
        END: The event that ends a stream; None if its last message does.
        Joined: Reads one stream.
    """

    @property
    def PATH(self) -> str: ...  # noqa: N802, D102 - a module's constant
    @property
    def END(self) -> str | None: ...  # noqa: N802, D102 - a module's constant
    @property
    def Joined(self) -> Callable[[], JoinedStream]: ...  # noqa: N802, D102 - a module's class

    def headers(self, key: str) -> dict[str, str]:
        """The headers with the credential."""

    def body(
        self,
        conversation: Conversation,
        model: str,
        provider: Provider,
        *,
        stream: bool,
        token_ids: bool = False,
    ) -> Mapping[str, Any]:
        """Build the request for the next response; with ``token_ids``, also ask for token ids.

        A protocol without token ids ignores ``token_ids``.
        """

    def read(self, answer: Any) -> Response:
        """Read the response in a server's answer.

        Raises:
            UnreadableResponse: The answer has no valid response.
        """

    def error_in(self, answer: Any) -> Any:
        """The error object in an answer or an event; None if there is none."""


PROTOCOLS: Mapping[str, WireProtocol] = {"openai": openai_chat, "anthropic": anthropic_messages}
