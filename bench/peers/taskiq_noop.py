"""taskiq over Redis lists, its fastest broker, with a task that does nothing.

Its workers load this module; run as a program, with a number and a pause, it sends.
"""

from __future__ import annotations

import asyncio
import os

from taskiq_redis import ListQueueBroker

from bench.peers.journal import note
from bench.peers.sending import send_by_arguments

broker = ListQueueBroker(os.environ["PEER_BROKER"])


async def _noop(sent: float, _question: str) -> None:
    note(sent)


noop = broker.register_task(_noop, task_name="noop")

if __name__ == "__main__":
    with asyncio.Runner() as runner:
        send_by_arguments(lambda sent, question: runner.run(noop.kiq(sent, question)))
