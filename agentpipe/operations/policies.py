"""Policies: queries and changes for the policies that workers follow."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.capabilities import KeepsPolicies, require
from agentpipe.core.did_you_mean import did_you_mean
from agentpipe.core.numbers import is_integer
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

# A worker learns of a pause within milliseconds; a stopped one may never.
HEARD_WITHIN_S = 5.0
_LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Flights:
    """What the workers that follow a policy report about it.

    Attributes:
        workers: Number of these workers.
        requests: Number of their requests to its servers under way, as reported.
        deaf: Number of workers that have not seen the last pause yet.
    """

    workers: int = 0
    requests: int = 0
    deaf: int = 0


def find_policy(store: Store, name: str) -> PolicyState:
    """The policy of that name.

    Raises:
        ConfigError: It does not exist, or this broker does not support policies.
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
    """Declare which version the servers have now, and their endpoints if these change.

    Raises:
        ConfigError: The version goes back, an endpoint is invalid, or the policy does not exist.
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
        ConfigError: The policy does not exist, or this broker does not support policies.
    """
    find_policy(store, name)  # Its error lists the existing names.
    state = require(store, KeepsPolicies, "keep policies").change_policy(name, step)
    return find_policy(store, name) if state is None else state


def pause_policy(store: Store, name: str, drain_s: float | None = 0.0) -> int:
    """Hold all new requests to its servers; returns how many are still under way.

    Args:
        store: The store that keeps the policy.
        name: The policy's name.
        drain_s: How long to wait for requests under way; None waits forever.

    Raises:
        ConfigError: The policy does not exist, or this broker does not support policies.
    """
    state = change(store, name, PolicyChange(paused=True))
    return drained(store, state, end_of(drain_s))


def end_of(drain_s: float | None) -> float:
    """The end of a drain that begins now, on the monotonic clock."""
    return math.inf if drain_s is None else time.monotonic() + drain_s


def drained(store: Store, state: PolicyState, until: float) -> int:
    """Wait for the requests of a paused policy; returns how many are left.

    Args:
        store: The store that keeps the policy.
        state: The policy's state, paused.
        until: End on the monotonic clock. Even if it has passed, workers get ``HEARD_WITHIN_S`` to
            learn of the pause: after an outage of the broker none of them has.
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
    """Sum up the reports of the living workers."""
    said = [Heartbeat.decode(each.report).policies.get(state.name) for each in stats.workers]
    known = [(int(pauses), int(requests)) for pauses, requests in filter(None, said)]
    deaf = sum(pauses < state.pauses for pauses, _ in known) if state.paused else 0
    return Flights(len(known), sum(requests for _, requests in known), deaf)


def policy_as_dict(state: PolicyState, flights: Flights) -> dict[str, Any]:
    """The JSON of ``policy --json``."""
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
    """Lines that describe a policy for people."""
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
    """Raise ``ConfigError`` for an invalid version."""
    if not is_integer(version) or not 0 <= version <= MAX_VERSION:
        raise ConfigError(f"a version is an integer from 0 to 2**53, not {version!r:.40}")


def _checked(endpoints: Sequence[str]) -> tuple[str, ...]:
    if isinstance(endpoints, str) or not 0 < len(endpoints) <= MAX_ENDPOINTS:
        raise ConfigError(f"endpoints: expected a list of 1 to {MAX_ENDPOINTS:,} URLs")
    for number, url in enumerate(endpoints, 1):
        if problem := endpoint_problem(url):
            raise ConfigError(f"endpoint {number}: {problem}")
    return tuple(endpoints)
