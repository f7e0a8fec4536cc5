"""Kafka's errors as ours, each in one line with its remedy."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kafka import errors as kafka

from agentpipe.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator

_REASONS: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    (
        (kafka.SaslAuthenticationFailedError,),
        "the broker refuses this user or password: correct them in the URL",
    ),
    (
        (kafka.UnsupportedSaslMechanismError, kafka.IllegalSaslStateError),
        "the broker does not support this SASL mechanism ({cause}): set ?sasl=",
    ),
    (
        (kafka.AuthorizationError,),
        "the user is not authorized ({cause}): allow it to read, write and create the topic",
    ),
    (
        (kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError),
        "a record exceeds the topic's limit: raise its max.message.bytes",
    ),
    (
        (kafka.InvalidReplicationFactorError,),
        "{cause}: set ?replication= to at most the number of brokers",
    ),
    (
        (kafka.ThrottlingQuotaExceededError,),
        "a quota is used up, so the broker throttles this client ({cause}): raise it",
    ),
    ((kafka.PolicyViolationError, kafka.InvalidPartitionsError), "{cause}"),
    ((kafka.UnknownTopicOrPartitionError,), "the topic was deleted; it is created again"),
    (
        (kafka.NotEnoughReplicasError, kafka.NotEnoughReplicasAfterAppendError),
        "too few replicas are in sync: start the other brokers, or see min.insync.replicas",
    ),
)


TOO_LARGE = (kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError)
# The broker's permanent errors about a record: a retry cannot succeed.
REFUSALS = (*TOO_LARGE, kafka.InvalidRecordError, kafka.InvalidTimestampError)


@contextmanager
def unreachable(shown: str) -> Iterator[None]:
    """Translate the client library's errors.

    Raises:
        Unreachable: With the reason and the remedy.
    """
    try:
        yield
    except (kafka.KafkaError, OSError, AssertionError) as error:
        raise Unreachable(f"{shown}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """The cause and its remedy, in one line."""
    cause = " ".join(str(error).split()) or type(error).__name__
    for kinds, text in _REASONS:
        if isinstance(error, kinds):
            return text.format(cause=cause)
    return f"no broker answers ({cause}): start Kafka, or correct the URL"


def quiet() -> None:
    """Silence the client's log of each connection attempt: our error reports it once."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
