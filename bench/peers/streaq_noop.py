"""streaq over Redis streams, acknowledging a task after it ran, with a task that does nothing.

Its workers load this module; run as a program, with a number and a pause, it sends.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from streaq import Worker

from bench.peers.journal import note
from bench.peers.sending import send_by_arguments

worker = Worker(
    redis_url=os.environ["PEER_BROKER"], queue_name="noop-streaq", concurrency=8, prefetch=0
)


async def _noop(sent: float, _question: str) -> None:
    note(sent)


noop = worker.task(ttl=0, name="noop")(_noop)


async def _send(sent: float, question: str) -> Any:
    return await noop.enqueue(sent, question)


if __name__ == "__main__":
    with asyncio.Runner() as runner:
        runner.run(worker.__aenter__())
        send_by_arguments(lambda sent, question: runner.run(_send(sent, question)))
