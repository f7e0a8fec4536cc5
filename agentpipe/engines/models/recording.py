"""What a response of a model leaves in its run's trace, usage and rollout."""

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

# After that, a server that has refused is asked once more.
REFUSED_FOR_S = 600.0

log = logging.getLogger(__name__)


def response_record(response: Response, usage: Mapping[str, Any]) -> dict[str, Any]:
    """For its span."""
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
    """Its tokens, and its price where that is known; ``model`` is the one that was asked for."""
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
    """For a rollout, within the span of its request; None where its ids did not come."""
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
    """Whether a model's server is asked for token ids.

    One that has refused is left alone for a while, not for good: it may be restarted with another
    version, and its worker outlives that.
    """

    def __init__(self, server: str) -> None:
        """Ask; ``server`` is for the log."""
        self._server, self._refused_until_s = server, -math.inf

    @property
    def are_wanted(self) -> bool:
        """Whether the next request asks for them."""
        return time.monotonic() >= self._refused_until_s

    @property
    def gap(self) -> str:
        """Why a response has none."""
        return NO_TOKEN_IDS if self.are_wanted else IDS_REFUSED

    def note_refusal(self) -> None:
        """Leave it alone; the log says so once for each server."""
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
    """Whether an error says that the request for ids is what a server refuses."""
    return any(name in text for name in ASKED)


def without_ids(failure: AgentFailed) -> AgentFailed:
    """What that means for a run that needs them."""
    return AgentFailed(
        f"the model's server gives no token ids: {failure}; "
        "serve the model with vLLM, or write `record: {tokens: try}`",
        kind="NoTokenIds",
        permanent=True,
    )
