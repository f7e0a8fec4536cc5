"""Health: what a RabbitMQ reports about itself over AMQP."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from agentpipe.connections.health import Finding, fail, ok, round_trip, warn

if TYPE_CHECKING:
    from agentpipe.connections.amqp.connection import Session

PINGS = 3
OLDEST = (3, 10)
# From this version on, a queue can set its own delivery timeout, and ours do.
QUEUES_SAY = (3, 12)


async def examine_broker(session: Session) -> list[Finding]:
    """Check the server of a broker."""
    return await _examine(
        session,
        "each of our queues says 7 days by itself",
        "above twice your longest run, since a task may wait behind another one",
    )


async def examine_sink(session: Session) -> list[Finding]:
    """Check the server of a sink."""
    return await _examine(
        session,
        "the queues of groups say 7 days by themselves",
        "above the longest time for which a reader holds a record",
    )


async def _examine(session: Session, said: str, limit: str) -> list[Finding]:
    found = [_version(session.server_version), round_trip(await _best_s(session))]
    if session.blocked:
        found.append(fail("blocked", session.blocked, "free the server's memory or disk"))
    advice = f"set consumer_timeout in rabbitmq.conf {limit}; the default is 30 minutes"
    return [*found, timeout_of(session.server_version, said, advice)]


async def _best_s(session: Session) -> float:
    channel = await session.channel()
    best_s = float("inf")
    for _ in range(PINGS):
        begun = time.perf_counter()
        await channel.catch_up()
        best_s = min(best_s, time.perf_counter() - begun)
    channel.close()
    return best_s


def _version(version: str) -> Finding:
    if _numbers(version) < OLDEST:
        return fail("server", f"RabbitMQ {version}", "use 3.10 or later")
    return ok("server", f"RabbitMQ {version}")


def timeout_of(version: str, said: str, advice: str) -> Finding:
    """Check how long a message can stay unacknowledged before the server redelivers it."""
    if _numbers(version) >= QUEUES_SAY:
        return ok("consumer_timeout", said)
    found = f"cannot be seen, and RabbitMQ {version} does not take it from queues"
    return warn("consumer_timeout", found, advice)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else 0 for part in version.split(".")[:2])
