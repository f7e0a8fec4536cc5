"""Sent: the outcome of the tasks of one call."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.brokers.records import Admission, Offer


@dataclass(frozen=True, slots=True)
class Sent:
    """The outcome of one call.

    Attributes:
        task_ids: Ids of accepted tasks, in the order given.
        duplicate_ids: Ids that are alive, or were settled within the retention time.
        refused: Tasks that found every queue full.
        depth: Waiting and delayed tasks when one was refused, else 0.
        bound: Most tasks that can wait or be delayed, when one was refused, else 0.
    """

    task_ids: tuple[str, ...] = ()
    duplicate_ids: tuple[str, ...] = ()
    refused: int = 0
    depth: int = 0
    bound: int = 0

    @classmethod
    def of(cls, batches: Sequence[Sent]) -> Sent:
        """Merge several outcomes."""
        return cls(
            task_ids=tuple(chain.from_iterable(batch.task_ids for batch in batches)),
            duplicate_ids=tuple(chain.from_iterable(batch.duplicate_ids for batch in batches)),
            refused=sum(batch.refused for batch in batches),
            depth=max((batch.depth for batch in batches), default=0),
            bound=max((batch.bound for batch in batches), default=0),
        )

    @property
    def accepted(self) -> int:
        """The number of accepted tasks."""
        return len(self.task_ids)

    @property
    def duplicates(self) -> int:
        """The number of tasks that were already known."""
        return len(self.duplicate_ids)


def sent_of(offers: Sequence[Offer], admission: Admission, *, count_refused: bool) -> Sent:
    """The outcome of an offer; without ``count_refused``, refused ones are offered again."""
    pairs = list(zip(offers, admission.verdicts, strict=True))
    return Sent(
        task_ids=tuple(offer.task_id for offer, verdict in pairs if verdict == "accepted"),
        duplicate_ids=tuple(offer.task_id for offer, verdict in pairs if verdict == "duplicate"),
        refused=admission.verdicts.count("refused") if count_refused else 0,
        depth=admission.depth,
        bound=admission.bound,
    )
