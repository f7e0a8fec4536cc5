"""The private names of kafka-python that agentpipe uses: this fails first when they change."""

from __future__ import annotations

import inspect

from kafka import KafkaConsumer
from kafka.cluster import ClusterMetadata
from kafka.consumer.fetcher import ConsumerRecord, Fetcher
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyAssignmentExecutor
from kafka.coordinator.consumer import ConsumerCoordinator
from kafka.net.compat import KafkaNetClient
from kafka.record.default_records import DefaultRecordBatch


def test_a_consumer_has_a_coordinator_that_can_be_polled_and_asked_to_join_again() -> None:
    assert "self._coordinator = ConsumerCoordinator(" in inspect.getsource(KafkaConsumer.__init__)
    assert "timeout_ms" in inspect.signature(ConsumerCoordinator.poll).parameters
    assert not inspect.signature(ConsumerCoordinator.request_rejoin).parameters.keys() - {"self"}


def test_a_coordinator_fetches_many_commits_at_once() -> None:
    parameters = inspect.signature(ConsumerCoordinator.fetch_committed_offsets).parameters
    assert {"partitions", "timeout_ms"} <= parameters.keys()


def test_the_assignor_is_cooperative_and_its_balance_can_be_changed_before_it_is_told() -> None:
    source = inspect.getsource(CooperativeStickyAssignor.assign)
    for used in ("perform_initial_assignment()", "balance()", "get_final_assignment("):
        assert used in source
    assert inspect.signature(StickyAssignmentExecutor).parameters.keys() == {"cluster", "members"}


def test_a_fetcher_decodes_by_a_class_that_can_be_replaced() -> None:
    assert "self._fetcher = Fetcher(" in inspect.getsource(KafkaConsumer.__init__)
    assert "self.PartitionRecords(" in inspect.getsource(Fetcher._parse_fetched_data)  # noqa: SLF001
    decoding = inspect.getsource(Fetcher.PartitionRecords)
    for used in ("_unpack_records(", "self.next_fetch_offset", "self.drain()", "self.records_read"):
        assert used in decoding
    assert len(ConsumerRecord._fields) == 13
    assert {"_buffer", "_pos", "_decompressed"} <= set(DefaultRecordBatch.__slots__)


def test_a_client_can_be_driven_by_its_caller() -> None:
    assert {"node_id", "request"} <= inspect.signature(KafkaNetClient.send).parameters.keys()
    assert {"timeout_ms", "future"} <= inspect.signature(KafkaNetClient.poll).parameters.keys()
    assert "timeout_ms" in inspect.signature(KafkaNetClient.get_broker_version).parameters
    assert (
        not inspect.signature(KafkaNetClient.least_loaded_node)
        .parameters["bootstrap_fallback"]
        .default
    )
    assert "allow_auto_create_topics" in ClusterMetadata.DEFAULT_CONFIG
    asking = inspect.getsource(ClusterMetadata.metadata_request)
    assert "self.config['allow_auto_create_topics']" in asking
    for used in ("set_topics", "partitions_for_topic", "leader_for_partition", "request_update"):
        assert callable(getattr(ClusterMetadata, used))
