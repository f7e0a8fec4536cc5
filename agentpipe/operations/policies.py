"""Policies: what a trainer or an operator tells the workers that follow one."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.capabilities import KeepsPolicies, require
from agentpipe.core.did_you_mean import did_you_mean
from agentpipe.core.policy import MAX_ENDPOINTS, MAX_VERSION, PolicyChange, endpoint_problem
from agentpipe.core.text import counted
from agentpipe.errors import ConfigError
from agentpipe.worker.claims.heartbeat import Heartbeat

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.statistics import Stats
    from agentpipe.core.loop_holds import LoopHold
    from agentpipe.core.policy import PolicyState

# A worker hears of a pause in milliseconds; one that is stopped may never.
HEARD_WITHIN_S = 5.0
_LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Flights:
    """What the workers that follow a policy say of it.

    Attributes:
        workers: How many there are.
        requests: Of theirs that are under way to its servers, as far as they have said.
        deaf: How many have not heard of the last pause yet.
    """

    workers: int = 0
    requests: int = 0
    deaf: int = 0


def find_policy(store: Store, name: str) -> PolicyState:
    """The policy of that name.

    Raises:
        ConfigError: There is none, or this broker keeps no policies.
    """
    policies = {it.name: it for it in require(store, KeepsPolicies, "keep policies").policies()}
    if name not in policies:
        remedy = "send to a collection that follows it, or start its workers"
        raise ConfigError(
            f"no policy {name!r} on this broker: {did_you_mean(name, sorted(policies), remedy)}"
        )
    return policies[name]


def publish(
    store: Store,
    name: str,
    version: int,
    endpoints: Sequence[str] | None = None,
    hold: LoopHold | None = None,
) -> PolicyState:
    """Say which version its servers have from now on, and where they are if that changes.

    Raises:
        ConfigError: The version goes back, an endpoint is wrong, or there is no such policy.
    """
    refuse_version(version)
    urls = None if endpoints is None else _checked(endpoints)
    state = change(store, name, PolicyChange(version=version, endpoints=urls, hold=hold))
    if state.version > version:
        raise ConfigError(
            f"policy {name!r} has version {state.version}, and {version} is lower: publish a "
            "higher one"
        )
    return state


def change(store: Store, name: str, step: PolicyChange) -> PolicyState:
    """Change a policy in one step.

    Raises:
        ConfigError: There is no such policy, or this broker keeps none.
    """
    find_policy(store, name)  # Names what there is.
    state = require(store, KeepsPolicies, "keep policies").change_policy(name, step)
    return find_policy(store, name) if state is None else state


def pause_policy(store: Store, name: str, drain_s: float | None = 0.0) -> int:
    """Hold all requests to its servers from now on; returns how many are still under way.

    Args:
        store: Where it is kept.
        name: Of the policy.
        drain_s: For how long to wait for these to end; None for ever.

    Raises:
        ConfigError: There is no such policy, or this broker keeps none.
    """
    state = change(store, name, PolicyChange(paused=True))
    return drained(store, state, end_of(drain_s))


def end_of(drain_s: float | None) -> float:
    """When a drain that begins now is over, on the monotonic clock."""
    return math.inf if drain_s is None else time.monotonic() + drain_s


def drained(store: Store, state: PolicyState, until: float) -> int:
    """Wait for the requests of a policy that was paused; returns how many are left.

    Args:
        store: Where it is kept.
        state: It is paused.
        until: On the monotonic clock. Workers get some seconds to hear of the pause all the same:
            after an outage of the broker none has.
    """
    begun = time.monotonic()
    for flights in _seen(store, state):
        now = time.monotonic()
        heard = not flights.deaf or now - begun >= HEARD_WITHIN_S
        left = flights.requests + flights.deaf
        if heard and (not left or now >= until):
            return left
    raise AssertionError


def _seen(store: Store, state: PolicyState) -> Iterator[Flights]:
    while True:
        yield flights_of(store.stats(), state)
        time.sleep(_LOOK_S)


def flights_of(stats: Stats, state: PolicyState) -> Flights:
    """What the living workers have said."""
    said = [Heartbeat.decode(each.report).policies.get(state.name) for each in stats.workers]
    known = [(int(pauses), int(requests)) for pauses, requests in filter(None, said)]
    deaf = sum(pauses < state.pauses for pauses, _ in known) if state.paused else 0
    return Flights(len(known), sum(requests for _, requests in known), deaf)


def policy_as_dict(state: PolicyState, flights: Flights) -> dict[str, Any]:
    """What ``policy --json`` says."""
    spec = state.spec
    return {
        "name": state.name,
        "version": state.version,
        "paused": state.paused,
        "model": spec.model,
        "endpoints": list(spec.endpoints),
        "batch": spec.batch,
        "max_staleness": spec.max_staleness,
        "hold_s": spec.hold_s,
        "room": state.room,
        "accepted": state.accepted,
        "running": state.running,
        "stale": state.stale,
        "workers": flights.workers,
        "requests": flights.requests,
    }


def policy_lines(state: PolicyState, flights: Flights) -> Iterator[str]:
    """The same for people."""
    paused = ", paused: its requests wait" if state.paused else ""
    workers, requests = counted(flights.workers, "worker"), counted(flights.requests, "request")
    yield f"policy {state.name}: version {state.version}{paused}; {workers}, {requests} under way"
    if state.room is not None:
        yield (
            f"  room for {max(0, state.room):,} groups: {state.accepted:,} of {state.allowed:,} "
            f"accepted, {state.running:,} running, {state.stale:,} stale"
        )
    yield from (f"  {each}" for each in state.spec.endpoints)


def refuse_version(version: int) -> None:
    """Raises ``ConfigError`` for what no version can be."""
    if type(version) is not int or not 0 <= version <= MAX_VERSION:
        raise ConfigError(f"a version is an integer from 0 to 2**53, not {version!r:.40}")


def _checked(endpoints: Sequence[str]) -> tuple[str, ...]:
    if isinstance(endpoints, str) or not 0 < len(endpoints) <= MAX_ENDPOINTS:
        raise ConfigError(f"endpoints: expected a list of 1 to {MAX_ENDPOINTS:,} URLs")
    for number, url in enumerate(endpoints, 1):
        if problem := endpoint_problem(url):
            raise ConfigError(f"endpoint {number}: {problem}")
    return tuple(endpoints)
