"""What senders ask of a store: when to build the next offer, and groups that count themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.brokers.records import Admission, Group, Offer
    from agentpipe.core.loop_holds import LoopHold


class OfferPace(Protocol):
    """Hears during an offer when the sender can build the next one."""

    def pause(self) -> None:
        """Note that a long step begins which releases the GIL; more steps can follow."""

    def end(self) -> None:
        """Note that the offer needs no more of this process until it is answered."""


@runtime_checkable
class PacesOffers(Protocol):
    """Says during an offer when the sender can build the next one, so that neither waits."""

    def pack(self, offers: Sequence[Offer]) -> Sequence[Offer]:
        """Return the offers, encoded as far as possible; they must not change afterwards."""

    def offer_at_pace(
        self, target: str, offers: Sequence[Offer], *, round_robin: bool, pace: OfferPace
    ) -> Admission:
        """Like ``offer``, also for packed offers, but reports to ``pace``."""


@runtime_checkable
class CountsGroups(Protocol):
    """Accepts whole groups, and counts their members in the step that settles them.

    Once ``need`` members are good, the same step cancels the others; the waiting ones are claimed
    as ``cancelled``, before all other tasks. While ``repairs`` are left, ``MemberEnd.repair``
    replaces a member that ended without judgement, even if its queue is full. The end of the last
    member puts one ``GroupEnd`` into the outbox, under the group's id.
    """

    def offer_groups(
        self, target: str, groups: Sequence[Group], hold: LoopHold | None = None
    ) -> Admission:
        """Admit groups round-robin to the collection ``target``; one verdict per group.

        A group with any known id is a ``duplicate``; a group without room for all its members is
        ``refused``. Pass ``hold`` only to stores that keep loops (``KeepsLoops``).

        Raises:
            LoopTaken: ``hold`` is not held; nothing is admitted.
        """
