"""Delays of tasks on RabbitMQ, seen without waiting for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq.messages import Message

if TYPE_CHECKING:
    import pytest

    from agentpipe.brokers.rabbitmq.topology import Topology
    from agentpipe.connections.amqp.message import OutgoingMessage


def skipped_delays(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Delay no task from now on; the list gets the delay in seconds that each would have had."""
    delays: list[float] = []
    delayed = Message.delayed

    def note(message: Message, topology: Topology, after_s: float) -> OutgoingMessage:
        delays.append(after_s)
        return delayed(message, topology, 0.0)

    monkeypatch.setattr(Message, "delayed", note)
    return delays
