"""Upstreams: the model servers behind a gateway."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agentpipe.engines.gateway.variables import KEYS, PREFIX, URLS
from agentpipe.engines.models.credentials import NO_KEY
from agentpipe.engines.models.protocols import PROTOCOLS
from agentpipe.engines.models.providers import PROVIDERS
from agentpipe.engines.models.run_url import refuse_bad_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.engines.models.protocols import WireProtocol
    from agentpipe.engines.models.providers import Provider
    from agentpipe.engines.policies import RunPolicy

# Paths below the prefix that are recorded.
RECORDED = {"/chat/completions": "openai", "/messages": "anthropic"}
# Requests that are forwarded unrecorded: not a model's answer. No segment of dots can match, since
# it would lead to another path.
_UNRECORDED = re.compile(
    r"GET /models(?:/[A-Za-z0-9_:-][A-Za-z0-9_.:-]{0,199})?"
    r"|POST /embeddings|POST /messages/count_tokens"
)


@dataclass(frozen=True, slots=True, repr=False)
class Upstream:
    """A model server and its key."""

    provider: Provider
    base_url: str
    key: str = field(repr=False)

    @property
    def protocol(self) -> WireProtocol:
        """The wire protocol of the server."""
        return PROTOCOLS[self.provider.protocol]

    def url(self, path: str, base_url: str = "") -> str:
        """The URL for a path below ``PREFIX``; ``base_url`` overrides the server, for a policy."""
        base_url = (base_url or self.base_url).rstrip("/")
        return base_url.removesuffix(PREFIX) + PREFIX + path


def is_recorded(method: str, path: str) -> bool:
    """Whether a request is for a model's answer."""
    return method == "POST" and path in RECORDED


def is_unrecorded(method: str, path: str) -> bool:
    """Whether to forward a request without a record; all other unknown requests are refused."""
    return _UNRECORDED.fullmatch(f"{method} {path}") is not None


def upstream(name: str, variables: Mapping[str, str]) -> Upstream:
    """The server in ``variables``, or the provider's default.

    Raises:
        AgentFailed: Its URL cannot be asked.
    """
    provider = PROVIDERS[name]
    found = next((each for each in URLS[name] if variables.get(each)), None)
    base_url = variables[found] if found else provider.base_url
    refuse_bad_url(base_url, found or "base_url")
    key = next(filter(None, map(variables.get, KEYS[name])), NO_KEY)
    return Upstream(provider, base_url.rstrip("/"), key)


def policy_upstream(name: str, policy: RunPolicy) -> Upstream:
    """The policy's servers, for this protocol, with the policy's own key only."""
    return Upstream(PROVIDERS[name], "", policy.key or NO_KEY)
