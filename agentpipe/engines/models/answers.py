"""Answers in a model server's responses, whole or streamed; everything else in them is an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe.engines.http.bodies import chunks, whole
from agentpipe.engines.http.sse import events
from agentpipe.engines.models.reading import an_object, parsed
from agentpipe.engines.models.service_errors import CLIENT_ERROR, error_of, error_within_answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx2

    from agentpipe.engines.http.sse import Event
    from agentpipe.engines.models.protocols import WireProtocol


def is_stream(response: httpx2.Response) -> bool:
    """Whether the answer arrives as events."""
    kind = response.headers.get("content-type", "")
    return response.is_success and "event-stream" in kind


async def answer_in(response: httpx2.Response, protocol: WireProtocol) -> Any:
    """Read an answer that arrives in one piece.

    Raises:
        ServiceError: The response is an error, or has one in it.
        UnreadableResponse: It is not JSON.
    """
    content = await whole(response)
    if response.status_code >= CLIENT_ERROR:
        raise error_of(response, content)
    answer = parsed(content)
    _refuse_error(answer, response, protocol)
    return answer


async def parts_of(
    response: httpx2.Response, protocol: WireProtocol
) -> AsyncIterator[tuple[Event, Any]]:
    """Yield each event of a streamed answer and its JSON; None for the event that ends it.

    Raises:
        ServiceError: An event is an error.
        UnreadableResponse: An event is not a JSON object.
    """
    async for event in events(chunks(response)):
        if event.data.decode(errors="replace") == protocol.END:
            yield event, None
            return
        part = parsed(event.data)
        if event.name == "error":
            raise error_within_answer(part, response)
        _refuse_error(part, response, protocol)
        yield event, an_object(part, "an event")


def _refuse_error(message: Any, response: httpx2.Response, protocol: WireProtocol) -> None:
    if error := protocol.error_in(message):
        raise error_within_answer(error, response)
