"""Policies as runs see them: where a request goes, of which version, and that a pause holds it."""

from __future__ import annotations

import asyncio
import math
import os
import threading
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentpipe.core.held_time import HeldTime
from agentpipe.core.policy import PolicyState, endpoint_for
from agentpipe.errors import AgentFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping

    from agentpipe.config.collection import Collection
    from agentpipe.core.task import Task

# Of a program's request that has waited for ``hold_s``: it asks again after so long.
RETRY_AFTER_S = 1
# The key of its servers: a policy's model is ``local``.
KEY_NAME, URL_NAME = "LOCAL_LLM_API_KEY", "LOCAL_LLM_BASE_URL"

_current: ContextVar[RunPolicy | None] = ContextVar("agentpipe_policy", default=None)


class StillPaused(Exception):  # noqa: N818 - no error: its request asks again
    """The policy is paused for longer than a request may be held."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What one request of a run uses.

    Attributes:
        version: The policy's when the request began; None for a model that is none.
        model: Its name at the server; empty for what the agent asks for.
    """

    version: int | None
    base_url: str
    model: str = ""


class LivePolicy:
    """A policy in this process, as the store said last; from any thread.

    Until the store has said anything, all requests wait.

    Attributes:
        noted: Called where the process has heard of a pause, and where no request is left in it.
    """

    def __init__(self, name: str, state: PolicyState | None = None) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._state = state
        self._in_flight = 0
        self._waiting: set[Callable[[], None]] = set()
        self.noted: Callable[[], None] = _nothing

    def follow(self, state: PolicyState) -> None:
        """Take what the store says; what waited goes on unless it is paused."""
        with self._lock:
            heard = self._state is None or self._state.pauses != state.pauses
            self._state = state
            called = set() if state.paused else set(self._waiting)
            self._waiting -= called
        for call in called:
            call()
        if heard:
            self.noted()

    @property
    def hold_s(self) -> float:
        """For how long a program's request may be held; endless while nothing is known."""
        return math.inf if self._state is None else self._state.spec.hold_s

    @property
    def report(self) -> tuple[int, int]:
        """Which pause this process has heard of, and how many requests are under way."""
        with self._lock:
            return (-1 if self._state is None else self._state.pauses), self._in_flight

    def begin(self) -> PolicyState | None:
        """Count a request; the state that it uses, or None, uncounted, while it has to wait."""
        with self._lock:
            if self._state is None or self._state.paused:
                return None
            self._in_flight += 1
            return self._state

    def end(self) -> None:
        """A request has ended."""
        with self._lock:
            self._in_flight -= 1
            is_last = not self._in_flight and self._state is not None and self._state.paused
        if is_last:
            self.noted()

    def on_open(self, call: Callable[[], None]) -> None:
        """Call it once requests may go on: now, or later in another thread."""
        with self._lock:
            closed = self._state is None or self._state.paused
            if closed:
                self._waiting.add(call)
        if not closed:
            call()

    async def opened(self) -> None:
        """Return once requests may go on."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def resolve() -> None:
            with suppress(RuntimeError):  # The loop is closed.
                loop.call_soon_threadsafe(_resolve, future)

        self.on_open(resolve)
        try:
            await future
        finally:
            with self._lock:
                self._waiting.discard(resolve)


def _nothing() -> None:
    """No caller waits for it."""


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class LivePolicies:
    """Those of all collections that a process serves, by name."""

    def __init__(self, collections: Iterable[Collection], *, alone: bool = False) -> None:
        """``alone`` without a store: they are as the files declare them, for good."""
        specs = {each.policy.name: each.policy for each in collections if each.policy}
        self._by_name = {
            name: LivePolicy(name, PolicyState(spec) if alone else None)
            for name, spec in specs.items()
        }

    def __bool__(self) -> bool:
        return bool(self._by_name)

    def of(self, collection: Collection) -> LivePolicy | None:
        """The one that a collection follows."""
        return self._by_name[collection.policy.name] if collection.policy else None

    def follow(self, states: Iterable[PolicyState]) -> None:
        """Take what the store says."""
        for state in states:
            if (live := self._by_name.get(state.name)) is not None:
                live.follow(state)

    def on_pause(self, call: Callable[[], None]) -> None:
        """Call it from now on where ``report`` says something that a trainer waits for."""
        for live in self._by_name.values():
            live.noted = call

    @property
    def report(self) -> dict[str, tuple[int, int]]:
        """What a worker's heartbeat says of each."""
        return {name: live.report for name, live in self._by_name.items()}


NO_POLICIES = LivePolicies(())


class RunPolicy:
    """One run's way to its policy.

    Attributes:
        key: That of the policy's servers.
        held: For how long the run was held.
    """

    def __init__(self, live: LivePolicy, task: Task, key: str) -> None:
        self.key, self.held = key, HeldTime()
        self._live, self._place = live, task.group_id or task.task_id

    @asynccontextmanager
    async def request(self, *, patient: bool = False) -> AsyncIterator[Lease]:
        """A lease for one request, once the policy is not paused.

        Raises:
            StillPaused: After ``hold_s``, unless it is ``patient``.
        """
        state = self._live.begin()
        while state is None:
            await self._hold(math.inf if patient else self._live.hold_s)
            state = self._live.begin()
        try:
            yield Lease(
                state.version, endpoint_for(state.spec.endpoints, self._place), state.spec.model
            )
        finally:
            self._live.end()

    async def _hold(self, limit_s: float) -> None:
        self.held.begin()
        try:
            async with asyncio.timeout(None if limit_s == math.inf else limit_s):
                await self._live.opened()
        except TimeoutError:
            # Its client asks again: until then the run is held by the pause, too.
            self.held.begin()
            self._live.on_open(self.held.end)
            raise StillPaused from None
        finally:
            self.held.end()


def paused_for_long() -> AgentFailed:
    """Why a run fails whose program does not ask again: it runs once more, uncounted."""
    return AgentFailed(
        "the policy is paused for a new version",
        kind="PolicyPaused",
        infra=True,
        retry_after_s=float(RETRY_AFTER_S),
        rate_limited=True,
    )


@contextmanager
def following(policy: RunPolicy | None) -> Iterator[None]:
    """Let what runs within ask this policy, if there is one."""
    token = _current.set(policy)
    try:
        yield
    finally:
        _current.reset(token)


def policy_key(env: Mapping[str, str]) -> str:
    """The key of a policy's servers: of a context, or of the worker's own environment."""
    return env.get(KEY_NAME) or os.environ.get(KEY_NAME, "")


def run_policy() -> RunPolicy | None:
    """That of the current run; None where it follows none."""
    return _current.get()
