"""Celery over Redis, acknowledging a task after it ran, with a task that does nothing.

Its workers load this module; run as a program, with a number and a pause, it sends.
"""

from __future__ import annotations

import os

from celery import Celery

from bench.peers.journal import note
from bench.peers.sending import send_by_arguments

app = Celery("noop", broker=os.environ["PEER_BROKER"])
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    task_ignore_result=True,
    task_default_queue="noop-celery",
)


def _noop(sent: float, _question: str) -> None:
    note(sent)


noop = app.task(name="noop")(_noop)

if __name__ == "__main__":
    send_by_arguments(noop.delay)
