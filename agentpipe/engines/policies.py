"""Policies for runs: the server and version for each request; a pause holds requests back."""

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

# Retry-After for a program's request that has waited for ``hold_s``.
RETRY_AFTER_S = 1
# Variables for the policy's servers: a policy's model is of the provider ``local``.
KEY_NAME, URL_NAME = "LOCAL_LLM_API_KEY", "LOCAL_LLM_BASE_URL"

_current: ContextVar[RunPolicy | None] = ContextVar("agentpipe_policy", default=None)


class StillPaused(Exception):  # noqa: N818 - not an error: the client asks again
    """The policy stays paused for longer than a request can be held."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where one request of a run goes.

    Attributes:
        version: The policy's version when the request began; None for a model without a policy.
        model: Its name at the server; empty for the model that the agent asks for.
    """

    version: int | None
    base_url: str
    model: str = ""


class LivePolicy:
    """A policy's latest state from the store, in this process; thread-safe.

    Until the store has reported a state, all requests wait.

    Attributes:
        noted: Called on learning of a pause, and when the last request in a pause ends.
    """

    def __init__(self, name: str, state: PolicyState | None = None) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._state = state
        self._in_flight = 0
        self._waiting: set[Callable[[], None]] = set()
        self.noted: Callable[[], None] = _nothing

    def follow(self, state: PolicyState) -> None:
        """Apply the store's state, and release the waiting requests unless it is paused."""
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
        """How long a program's request can be held, in seconds; infinite until a state is known."""
        return math.inf if self._state is None else self._state.spec.hold_s

    @property
    def report(self) -> tuple[int, int]:
        """The last pause that this process knows of, and the number of requests in flight."""
        with self._lock:
            return (-1 if self._state is None else self._state.pauses), self._in_flight

    def begin(self) -> PolicyState | None:
        """Count a request and return its state; None, without counting, if it must wait."""
        with self._lock:
            if self._state is None or self._state.paused:
                return None
            self._in_flight += 1
            return self._state

    def end(self) -> None:
        """Count the end of a request."""
        with self._lock:
            self._in_flight -= 1
            is_last = not self._in_flight and self._state is not None and self._state.paused
        if is_last:
            self.noted()

    def on_open(self, call: Callable[[], None]) -> None:
        """Call ``call`` once requests can continue: now, or later in another thread."""
        with self._lock:
            closed = self._state is None or self._state.paused
            if closed:
                self._waiting.add(call)
        if not closed:
            call()

    async def opened(self) -> None:
        """Wait until requests can continue."""
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
    """Do nothing: the default for ``noted``."""


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class LivePolicies:
    """The policies of all collections that a process serves, by name."""

    def __init__(self, collections: Iterable[Collection], *, alone: bool = False) -> None:
        """With ``alone`` there is no store: policies stay as the files declare them."""
        specs = {each.policy.name: each.policy for each in collections if each.policy}
        self._by_name = {
            name: LivePolicy(name, PolicyState(spec) if alone else None)
            for name, spec in specs.items()
        }

    def __bool__(self) -> bool:
        return bool(self._by_name)

    def of(self, collection: Collection) -> LivePolicy | None:
        """The policy that a collection follows."""
        return self._by_name[collection.policy.name] if collection.policy else None

    def follow(self, states: Iterable[PolicyState]) -> None:
        """Apply the store's states."""
        for state in states:
            if (live := self._by_name.get(state.name)) is not None:
                live.follow(state)

    def on_pause(self, call: Callable[[], None]) -> None:
        """Call ``call`` from now on whenever ``report`` has news that a trainer waits for."""
        for live in self._by_name.values():
            live.noted = call

    @property
    def report(self) -> dict[str, tuple[int, int]]:
        """Each policy's report, for the worker's heartbeat."""
        return {name: live.report for name, live in self._by_name.items()}


NO_POLICIES = LivePolicies(())


class RunPolicy:
    """A run's access to its policy.

    Attributes:
        key: The key of the policy's servers.
        held: How long the policy's pauses have held the run.
    """

    def __init__(self, live: LivePolicy, task: Task, key: str) -> None:
        self.key, self.held = key, HeldTime()
        self._live, self._place = live, task.group_id or task.task_id

    @asynccontextmanager
    async def request(self, *, patient: bool = False) -> AsyncIterator[Route]:
        """Where to send one request, after waiting for a pause to end; the policy counts it.

        Raises:
            StillPaused: The pause lasts longer than ``hold_s``, unless the request is ``patient``.
        """
        state = self._live.begin()
        while state is None:
            await self._hold(math.inf if patient else self._live.hold_s)
            state = self._live.begin()
        try:
            yield Route(
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
            # The client asks again; until then, the pause still holds the run.
            self.held.begin()
            self._live.on_open(self.held.end)
            raise StillPaused from None
        finally:
            self.held.end()


def paused_for_long() -> AgentFailed:
    """The error of a run whose program does not ask again; its retry does not count."""
    return AgentFailed(
        "the policy is paused for a new version",
        kind="PolicyPaused",
        infra=True,
        retry_after_s=float(RETRY_AFTER_S),
        rate_limited=True,
    )


@contextmanager
def following(policy: RunPolicy | None) -> Iterator[None]:
    """Let code in the block use this policy, if there is one."""
    token = _current.set(policy)
    try:
        yield
    finally:
        _current.reset(token)


def policy_key(env: Mapping[str, str]) -> str:
    """The key of a policy's servers, from the context or the worker's environment."""
    return env.get(KEY_NAME) or os.environ.get(KEY_NAME, "")


def run_policy() -> RunPolicy | None:
    """The policy of the current run; None if it follows none."""
    return _current.get()
