"""Queues of an agent on RabbitMQ, without its store."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pika

from agentpipe.brokers.rabbitmq.topology import Topology

if TYPE_CHECKING:
    from agentpipe.brokers.records import Queue


def delete_queues(broker_url: str, queue: Queue) -> None:
    """Delete the two queues of an agent's tasks, as an operator can."""
    url, _, prefix = broker_url.partition("?prefix=")
    names = Topology(prefix)
    with closing(pika.BlockingConnection(pika.URLParameters(url))) as connection:
        for each in (names.admission(queue.name, queue.max_waiting), names.back(queue.name)):
            connection.channel().queue_delete(each.name)
