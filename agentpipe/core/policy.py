"""Policies: the model that a trainer updates, by version, and the servers that sample from it."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import orjson

if TYPE_CHECKING:
    from collections.abc import Sequence
    from urllib.parse import SplitResult

    from agentpipe.core.loop_holds import LoopHold

MAX_ENDPOINTS = 1_000
MAX_VERSION = 2**53
HOLD_S = 60.0
_MAX_URL_CHARS = 2_000


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """A policy as a file declares it, or as it was published since.

    Attributes:
        endpoints: Base URLs of the servers that sample from it.
        model: Its name at these servers; empty for the one that each agent asks for.
        batch: How many groups one version is trained on; None where nothing is limited.
        max_staleness: By how many versions a group may be older than the one it trains.
        hold_s: For how long a request of a program waits while the policy is paused.
    """

    name: str
    endpoints: tuple[str, ...] = ()
    model: str = ""
    batch: int | None = None
    max_staleness: int | None = None
    hold_s: float = HOLD_S

    def encode(self) -> str:
        """The form that stores keep."""
        return orjson.dumps(asdict(self), option=orjson.OPT_SORT_KEYS).decode()

    @classmethod
    def decode(cls, text: str | bytes) -> Self:
        """Read what ``encode`` of any version wrote.

        Raises:
            ValueError: It is malformed.
            TypeError: Likewise.
        """
        given = orjson.loads(text)
        known = {each.name: given[each.name] for each in fields(cls) if each.name in given}
        spec = cls(**{**known, "endpoints": tuple(known["endpoints"])})
        if any(map(endpoint_problem, spec.endpoints)):
            raise ValueError("not an endpoint")
        return spec


@dataclass(frozen=True, slots=True)
class PolicyState:
    """A policy as its store knows it now.

    Attributes:
        version: Of the weights that its servers have.
        paused: Requests to its servers wait.
        pauses: How often it was paused: tells which pause a worker has heard of.
        accepted: Groups that have ended complete, and tasks in no group that have ended ``ok``,
            less those that a trainer has given back.
        running: Groups and tasks that have begun and not ended.
        stale: Groups that were cancelled since what they had was too old.
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
        """Its name."""
        return self.spec.name

    @property
    def allowed(self) -> int | None:
        """How many groups may begin in all until its version rises; None without a limit."""
        spec = self.spec
        if spec.batch is None or spec.max_staleness is None:
            return None
        return (spec.max_staleness + self.version + 1) * spec.batch

    @property
    def staleness(self) -> int | None:
        """How many versions older than the one it trains the group will be that began last."""
        if self.allowed is None or self.spec.batch is None:
            return None
        begun = self.accepted + self.running
        return max(0, (begun - 1) // self.spec.batch - self.version)

    @property
    def room(self) -> int | None:
        """How many may begin now; None without a limit."""
        return None if self.allowed is None else self.allowed - self.accepted - self.running


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """What one step changes of a policy; None for what stays.

    Attributes:
        back: The version may be lower than before; else a lower one changes nothing at all.
        accepted: As many are accepted, whatever was counted.
        returned: So many of the accepted train nothing: others may begin in their place.
        unused: Why, of ``core.groups.UNUSED``; empty where that is not counted.
        hold: Of the loop whose trainer changes it; refused where another trainer has that.
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
        """The state after it."""
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
    """The endpoint of a task or a group: always the same, for the cache of its prompts there.

    Where endpoints come and go, only the keys of those move (rendezvous hashing).
    """
    return max(endpoints, key=lambda each: (_weight(each, key), each))


def _weight(endpoint: str, key: str) -> bytes:
    return hashlib.blake2b(f"{endpoint}\n{key}".encode(), digest_size=8).digest()


def endpoint_problem(url: Any) -> str:
    """What is wrong with an endpoint's URL, which is not shown: it may hold a password."""
    if not isinstance(url, str) or not url or len(url) > _MAX_URL_CHARS:
        return "expected a URL such as http://vllm-0:8000/v1"
    if not url.isprintable() or " " in url:
        return "the URL has characters that no URL may have"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return "the URL cannot be read: write http://HOST:PORT/v1"
    return _problem_of_parts(parts, url)


def _problem_of_parts(parts: SplitResult, url: str) -> str:
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "expected a URL that begins with http:// or https://, and has a host"
    if "@" in parts.netloc:
        return "the URL has a user or a password, which all would see: set LOCAL_LLM_API_KEY"
    if "?" in url or "#" in url:
        return "the URL must end with its path: remove what follows ? or #"
    return ""
