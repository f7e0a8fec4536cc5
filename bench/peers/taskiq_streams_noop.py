"""taskiq over Redis streams, acknowledging a task after it ran, with a task that does nothing.

Its workers load this module; run as a program, with a number and a pause, it sends.
"""

from __future__ import annotations

import asyncio
import os

from taskiq_redis import RedisStreamBroker

from bench.peers.journal import note
from bench.peers.sending import send_by_arguments

# The group starts at the first task, to include tasks sent before the workers started.
broker = RedisStreamBroker(
    os.environ["PEER_BROKER"], queue_name="noop-taskiq-streams", consumer_id="0"
)


async def _noop(sent: float, _question: str) -> None:
    note(sent)


noop = broker.register_task(_noop, task_name="noop")

if __name__ == "__main__":
    with asyncio.Runner() as runner:
        send_by_arguments(lambda sent, question: runner.run(noop.kiq(sent, question)))
