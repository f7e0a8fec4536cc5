"""Policies: the versioned model that a trainer updates, and the servers that sample from it."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import orjson

from agentpipe.core.http_url import server_problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.core.loop_holds import LoopHold

MAX_ENDPOINTS = 1_000
MAX_VERSION = 2**53
HOLD_S = 60.0
_MAX_URL_CHARS = 2_000


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """A policy as declared in a file, or as published since.

    Attributes:
        endpoints: Base URLs of the servers that sample from the policy.
        model: The model name at these servers; empty means the name that each agent requests.
        batch: Number of groups per trained version; None for no limit.
        max_staleness: Maximum number of versions by which a group can lag the version it trains.
        hold_s: How long a program's request waits while the policy is paused.
    """

    name: str
    endpoints: tuple[str, ...] = ()
    model: str = ""
    batch: int | None = None
    max_staleness: int | None = None
    hold_s: float = HOLD_S

    def encode(self) -> str:
        """Return the form that stores keep."""
        return orjson.dumps(asdict(self), option=orjson.OPT_SORT_KEYS).decode()

    @classmethod
    def decode(cls, text: str | bytes) -> Self:
        """Read the output of any version's ``encode``.

        Raises:
            ValueError: It is malformed.
            TypeError: It is malformed.
        """
        given = orjson.loads(text)
        known = {each.name: given[each.name] for each in fields(cls) if each.name in given}
        spec = cls(**{**known, "endpoints": tuple(known["endpoints"])})
        if any(map(endpoint_problem, spec.endpoints)):
            raise ValueError("not an endpoint")
        return spec


@dataclass(frozen=True, slots=True)
class PolicyState:
    """A policy's current state in the store.

    Attributes:
        version: Version of the weights on the servers.
        paused: Whether requests to the servers wait.
        pauses: Number of pauses so far; identifies which pause a worker has seen.
        accepted: Groups that ended complete, plus tasks without a group that ended ``ok``, minus
            those that a trainer returned.
        running: Groups and tasks that have started but not ended.
        stale: Groups that were cancelled because their samples were too old.
    """

    spec: PolicySpec
    version: int = 0
    paused: bool = False
    pauses: int = 0
    accepted: int = 0
    running: int = 0
    stale: int = 0

    @property
    def name(self) -> str:
        """The policy's name."""
        return self.spec.name

    @property
    def allowed(self) -> int | None:
        """Total number of groups that can start before the next version; None for no limit."""
        spec = self.spec
        if spec.batch is None or spec.max_staleness is None:
            return None
        return (spec.max_staleness + self.version + 1) * spec.batch

    @property
    def staleness(self) -> int | None:
        """How many versions the newest started group will lag the version that it trains."""
        if self.allowed is None or self.spec.batch is None:
            return None
        begun = self.accepted + self.running
        return max(0, (begun - 1) // self.spec.batch - self.version)

    @property
    def room(self) -> int | None:
        """How many groups can start now; None for no limit."""
        return None if self.allowed is None else self.allowed - self.accepted - self.running


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """What one step changes in a policy; None leaves a value unchanged.

    Attributes:
        back: Allow a lower version; without it, a change to a lower version does nothing at all.
        accepted: Set the number of accepted groups to this.
        returned: How many accepted groups are not trained on; others can start in their place.
        unused: Why they are not used, from ``core.groups.UNUSED``; empty if that is not counted.
        hold: The trainer's hold on its loop; the change is refused if another trainer holds the
            loop.
    """

    version: int | None = None
    endpoints: tuple[str, ...] | None = None
    paused: bool | None = None
    back: bool = False
    accepted: int | None = None
    returned: int = 0
    unused: str = ""
    hold: LoopHold | None = None

    def of(self, state: PolicyState) -> PolicyState:
        """Return the state after this change."""
        version = state.version if self.version is None else self.version
        if version < state.version and not self.back:
            return state
        spec = state.spec if self.endpoints is None else _with(state.spec, self.endpoints)
        paused = state.paused if self.paused is None else self.paused
        pauses = state.pauses + (paused and not state.paused)
        accepted = state.accepted if self.accepted is None else self.accepted
        return replace(
            state,
            spec=spec,
            version=version,
            paused=paused,
            pauses=pauses,
            accepted=max(0, accepted - self.returned),
        )


def _with(spec: PolicySpec, endpoints: tuple[str, ...]) -> PolicySpec:
    return replace(spec, endpoints=endpoints)


def endpoint_for(endpoints: Sequence[str], key: str) -> str:
    """Return the endpoint of a task or group: always the same one, to reuse its prompt cache.

    When endpoints are added or removed, only their own keys move (rendezvous hashing).
    """
    return max(endpoints, key=lambda each: (_weight(each, key), each))


def _weight(endpoint: str, key: str) -> bytes:
    return hashlib.blake2b(f"{endpoint}\n{key}".encode(), digest_size=8).digest()


def endpoint_problem(url: Any) -> str:
    """Describe what is wrong with an endpoint URL, without the URL: it can contain a password."""
    if not isinstance(url, str) or not url or len(url) > _MAX_URL_CHARS:
        return "expected a URL such as http://vllm-0:8000/v1"
    if not url.isprintable() or " " in url:
        return "the URL has characters that no URL may have"
    if problem := server_problem(url):
        return problem
    if "@" in urlsplit(url).netloc:
        return "the URL has a user or a password, which all would see: set LOCAL_LLM_API_KEY"
    if "?" in url or "#" in url:
        return "the URL must end with its path: remove what follows ? or #"
    return ""
