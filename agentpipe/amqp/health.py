"""Health: what a RabbitMQ tells of itself over AMQP."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from agentpipe.finding import Finding, fail, ok, round_trip, warn

if TYPE_CHECKING:
    from agentpipe.amqp.connection import Session

PINGS = 3
# From here on a queue may say by itself how long a delivery may take, and ours do.
QUEUES_SAY = (3, 12)


async def examine(session: Session) -> list[Finding]:
    """Of the server behind a connection."""
    channel = await session.channel()
    best_s = float("inf")
    for _ in range(PINGS):
        begun = time.perf_counter()
        await channel.catch_up()
        best_s = min(best_s, time.perf_counter() - begun)
    channel.close()
    version = session.server_version
    found = [ok("server", f"RabbitMQ {version}"), round_trip(best_s), timeout_of(version)]
    if session.blocked:
        found.append(fail("alarms", session.blocked, "free the server's memory or disk"))
    return found


def timeout_of(version: str) -> Finding:
    """How long a run may take before the server gives its task to somebody else."""
    numbers = [int(part) if part.isdecimal() else 0 for part in version.split(".")[:2]]
    if tuple(numbers) >= QUEUES_SAY:
        return ok("consumer_timeout", "each of our queues says 7 days by itself")
    return warn(
        "consumer_timeout",
        f"cannot be seen from here, and RabbitMQ {version} does not take it from queues",
        "set consumer_timeout in rabbitmq.conf above your longest run; the default is 30 minutes",
    )
