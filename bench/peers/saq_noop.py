"""saq over Redis, with a task that does nothing; a job belongs to its worker until it ends.

Its workers load this module; run as a program, with a number and a pause, it sends.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from saq import Queue

from bench.peers.journal import note
from bench.peers.sending import send_by_arguments

queue = Queue.from_url(os.environ["PEER_BROKER"], name="noop-saq")


async def noop(_context: dict[str, Any], *, sent: float, question: str) -> None:
    del question
    note(sent)


settings = {"queue": queue, "functions": [noop], "concurrency": 8}

if __name__ == "__main__":
    with asyncio.Runner() as runner:
        runner.run(queue.connect())
        send_by_arguments(
            lambda sent, question: runner.run(queue.enqueue("noop", sent=sent, question=question))
        )
