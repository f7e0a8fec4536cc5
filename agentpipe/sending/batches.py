"""Batches: the offers of one round trip of a send."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from agentpipe.brokers.records import Offer
    from agentpipe.sending.one_ahead import Pace

BATCH = 1_000
# How much of the next batch is made in each pause of a store that reports its pauses.
PART = 250
BATCH_BYTES = 4 * 1024 * 1024


def in_pauses(tasks: Iterable[Any], pace: Pace) -> Iterator[Any]:
    """Yield the tasks; each part of them waits for the store's next pause."""
    for number, task in enumerate(tasks):
        if not number % PART:
            pace.rest()
        yield task


def batches_of(offers: Iterator[Offer]) -> Iterator[Sequence[Offer]]:
    """Cut the offers into batches, bounded by number and roughly by bytes."""
    while batch := list(islice(offers, 1)):
        size = len(batch[0].payload)
        for offer in islice(offers, BATCH - 1):
            batch.append(offer)
            size += len(offer.payload)
            if size > BATCH_BYTES:
                break
        yield batch


def is_full(batch: Sequence[Offer]) -> bool:
    """Whether the batch is full, so another can follow."""
    return len(batch) == BATCH or sum(len(offer.payload) for offer in batch) > BATCH_BYTES
