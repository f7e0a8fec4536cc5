"""What Kafka's errors mean, in one line each."""

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
        "the broker does not know this way to log in ({cause}): give ?sasl=",
    ),
    (
        (kafka.AuthorizationError,),
        "the user may not do this ({cause}): allow it to read, write and make the topic",
    ),
    (
        (kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError),
        "a record is larger than the topic takes: raise its max.message.bytes",
    ),
    ((kafka.InvalidReplicationFactorError,), "{cause}: give ?replication= as many as brokers"),
    ((kafka.PolicyViolationError, kafka.InvalidPartitionsError), "{cause}"),
    ((kafka.UnknownTopicOrPartitionError,), "the topic is gone; it is made again"),
    (
        (kafka.NotEnoughReplicasError, kafka.NotEnoughReplicasAfterAppendError),
        "too few replicas are there to take records: see min.insync.replicas",
    ),
)


@contextmanager
def unreachable(shown: str) -> Iterator[None]:
    """What the client library raises, as ours.

    Raises:
        Unreachable: In place of it, with the reason and what to do.
    """
    try:
        yield
    except (kafka.KafkaError, OSError, AssertionError) as error:
        raise Unreachable(f"{shown}: {why_not(error)}") from error


def why_not(error: BaseException) -> str:
    """Why it failed, in one line."""
    cause = " ".join(str(error).split()) or type(error).__name__
    for kinds, text in _REASONS:
        if isinstance(error, kinds):
            return text.format(cause=cause)
    return f"no broker answers ({cause}): start Kafka, or correct the URL"


def quiet() -> None:
    """The client logs every try to connect; we say it, in one line."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
