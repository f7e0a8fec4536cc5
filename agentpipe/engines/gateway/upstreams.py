"""Upstreams: the servers of models behind a gateway."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agentpipe.engines.gateway.variables import KEYS, PREFIX, URLS
from agentpipe.engines.models.credentials import NO_KEY
from agentpipe.engines.models.protocols import PROTOCOLS
from agentpipe.engines.models.providers import PROVIDERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.engines.models.protocols import WireProtocol
    from agentpipe.engines.models.providers import Provider
    from agentpipe.engines.policies import RunPolicy

# What their clients ask below the prefix, that is recorded.
RECORDED = {"/chat/completions": "openai", "/messages": "anthropic"}
# And what is not an answer of a model. A segment of dots in a path would lead elsewhere.
_UNRECORDED = re.compile(
    r"GET /models(?:/[A-Za-z0-9_:-][A-Za-z0-9_.:-]{0,199})?"
    r"|POST /embeddings|POST /messages/count_tokens"
)


@dataclass(frozen=True, slots=True, repr=False)
class Upstream:
    """One server with its key."""

    provider: Provider
    base_url: str
    key: str = field(repr=False)

    @property
    def protocol(self) -> WireProtocol:
        """How it speaks."""
        return PROTOCOLS[self.provider.protocol]

    def url(self, path: str, base_url: str = "") -> str:
        """Of what a client asks below ``PREFIX``; ``base_url`` is that of a policy's server."""
        base_url = (base_url or self.base_url).rstrip("/")
        return base_url.removesuffix(PREFIX) + PREFIX + path


def is_unrecorded(method: str, path: str) -> bool:
    """Whether a request is passed on without a record; all that is not in the list is refused."""
    return _UNRECORDED.fullmatch(f"{method} {path}") is not None


def upstream(name: str, variables: Mapping[str, str]) -> Upstream:
    """The server that ``variables`` name, or the provider's own."""
    provider = PROVIDERS[name]
    found = next(filter(None, map(variables.get, URLS[name])), provider.base_url)
    key = next(filter(None, map(variables.get, KEYS[name])), NO_KEY)
    return Upstream(provider, found.rstrip("/"), key)


def policy_upstream(name: str, policy: RunPolicy) -> Upstream:
    """The servers of a policy, by this protocol, with their key and no other."""
    return Upstream(PROVIDERS[name], "", policy.key or NO_KEY)
