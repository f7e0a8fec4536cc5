"""arq over Redis, with a task that does nothing; a job stays in its queue until it has ended.

Its workers load this module; run as a program, with a number and a pause, it sends.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from arq import create_pool
from arq.connections import RedisSettings

from bench.peers.journal import note
from bench.peers.sending import send_by_arguments

SERVER = RedisSettings.from_dsn(os.environ["PEER_BROKER"])
QUEUE = "noop-arq"


async def noop(_context: dict[str, Any], sent: float, _question: str) -> None:
    note(sent)


class WorkerSettings:
    functions = (noop,)
    redis_settings = SERVER
    queue_name = QUEUE
    max_jobs = 8
    keep_result = 0


if __name__ == "__main__":
    with asyncio.Runner() as runner:
        pool = runner.run(create_pool(SERVER, default_queue_name=QUEUE))
        send_by_arguments(
            lambda sent, question: runner.run(pool.enqueue_job("noop", sent, question))
        )
