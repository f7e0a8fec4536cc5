"""Dramatiq with its defaults, with a task that does nothing.

Its workers load this module; run as a program, with a number and a pause, it sends.
"""

from __future__ import annotations

import os
from typing import Any

import dramatiq

from bench.peers.journal import note
from bench.peers.sending import send_by_arguments

URL = os.environ["PEER_BROKER"]
CONFIRM = "PEER_CONFIRM" in os.environ


def _broker() -> dramatiq.Broker:
    if URL.startswith("amqp"):
        from dramatiq.brokers.rabbitmq import RabbitmqBroker

        return RabbitmqBroker(url=URL, confirm_delivery=CONFIRM)
    from dramatiq.brokers.redis import RedisBroker

    return RedisBroker(url=URL)  # type: ignore[no-untyped-call]  # Dramatiq has no types


dramatiq.set_broker(_broker())


@dramatiq.actor(queue_name="noop")
def noop(sent: float, _question: str) -> None:
    note(sent)


if __name__ == "__main__":
    # Run as a program, this module has another name, but workers look up only the actor's name.
    def send(sent: float, question: str) -> Any:
        return noop.send(sent, question)

    send_by_arguments(send)
