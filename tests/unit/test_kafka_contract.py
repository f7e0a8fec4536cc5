"""Of kafka-python we touch a name that is not public; this fails first when it changes."""

from __future__ import annotations

import inspect

from kafka import KafkaConsumer
from kafka.coordinator.consumer import ConsumerCoordinator


def test_a_consumer_has_a_coordinator_that_can_be_polled_and_asked_to_join_again() -> None:
    assert "self._coordinator = ConsumerCoordinator(" in inspect.getsource(KafkaConsumer.__init__)
    assert "timeout_ms" in inspect.signature(ConsumerCoordinator.poll).parameters
    assert not inspect.signature(ConsumerCoordinator.request_rejoin).parameters.keys() - {"self"}
