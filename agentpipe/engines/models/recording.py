"""Recording: what a model's response adds to its run's trace, usage and rollout."""

from __future__ import annotations

import logging
import math
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from agentpipe.core import trace
from agentpipe.core.rollout import IDS_REFUSED, NO_TOKEN_IDS
from agentpipe.core.token_rows import Turn
from agentpipe.engines.models.prices import usd_of
from agentpipe.engines.models.sampled_ids import ASKED
from agentpipe.errors import AgentFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.engines.models.conversation import Response

# Seconds after which a server that refused is asked again.
REFUSED_FOR_S = 600.0

log = logging.getLogger(__name__)


def response_record(response: Response, usage: Mapping[str, Any]) -> dict[str, Any]:
    """The response's data for its span."""
    calls = [
        {"id": call.id, "name": call.name, "arguments": call.arguments} for call in response.calls
    ]
    return {
        "response": response.text,
        "tool_calls": calls,
        "finish_reason": response.finish_reason,
        "response_id": response.id,
        "usage": usage,
    }


def usage_of(response: Response, provider: str, model: str) -> dict[str, Any]:
    """The response's tokens, and its price if known; ``model`` is the requested model."""
    tokens = response.tokens
    if tokens is None:
        return {"requests": 1}
    counts = {
        "requests": 1,
        "input_tokens": tokens.input,
        "output_tokens": tokens.output,
        "cached_tokens": tokens.cache_read,
    }
    usd = usd_of(tokens, provider, response.model or model)
    return counts if usd is None else {**counts, "usd": usd}


def turn_of(response: Response, settings: Mapping[str, Any]) -> Turn | None:
    """The turn for a rollout; None without token ids. Call it within the request's span."""
    ids = response.sampled
    if ids is None:
        return None
    return Turn(
        ids.prompt_ids,
        ids.token_ids,
        ids.logprobs,
        span=trace.span_id(),
        finish=response.finish_reason,
        temperature=settings.get("temperature"),
        top_p=settings.get("top_p"),
        versions=ids.versions,
    )


class IdRequests:
    """Decides whether a model's server is asked for token ids.

    After a refusal it is not asked for a while. The server can be restarted with another version
    while the worker keeps running, so a refusal is not final.
    """

    def __init__(self, server: str) -> None:
        """Start by asking; ``server`` is the name for the log."""
        self._server, self._refused_until_s = server, -math.inf

    @property
    def are_wanted(self) -> bool:
        """Whether the next request asks for token ids."""
        return time.monotonic() >= self._refused_until_s

    @property
    def gap(self) -> str:
        """The reason why a response has no token ids."""
        return NO_TOKEN_IDS if self.are_wanted else IDS_REFUSED

    def note_refusal(self) -> None:
        """Stop asking for a while; logged once per server."""
        self._refused_until_s = time.monotonic() + REFUSED_FOR_S
        _say_refused(self._server)


@lru_cache(maxsize=256)
def _say_refused(server: str) -> None:
    log.warning(
        "%s refuses to be asked for token ids: rollouts have gaps (%s); it is asked again every "
        "%.0f s. Serve the model with vLLM, or leave `record` out",
        server,
        IDS_REFUSED,
        REFUSED_FOR_S,
    )


def refuses_ids(text: str) -> bool:
    """Whether an error means that the server refuses the request for token ids."""
    return any(name in text for name in ASKED)


def without_ids(failure: AgentFailed) -> AgentFailed:
    """Convert the refusal to an error for a run that requires token ids."""
    return AgentFailed(
        f"the model's server gives no token ids: {failure}; "
        "serve the model with vLLM, or write `record: {tokens: try}`",
        kind="NoTokenIds",
        permanent=True,
    )
