"""Offering: encodes offers as script arguments and decodes the replies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.brokers.records import Admission, Offer, Verdict
from agentpipe.brokers.redis.groups import bounded_priority
from agentpipe.brokers.redis.packing import Packed, packed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agentpipe.brokers.redis.asking import Asking
    from agentpipe.brokers.redis.packing import Argument

_VERDICTS: dict[int, Verdict] = {ord("a"): "accepted", ord("d"): "duplicate", ord("r"): "refused"}


class PackedOffers(list[Offer]):
    """The offers of one call, encoded for sending.

    Attributes:
        plain: Whether no offer has a priority or a delay.
        bounded: Whether a full queue refuses them.
        arguments: The encoded offers; the offers must not change afterwards.
    """

    def __init__(self, offers: Sequence[Offer]) -> None:
        super().__init__(offers)
        self.plain = not any(offer.priority or offer.delay_s for offer in offers)
        self.bounded = all(offer.bounded for offer in offers)
        self.arguments: Packed = packed(self._arguments())

    def _arguments(self) -> list[Argument]:
        args: list[Argument] = []
        for offer in self:
            args += (offer.task_id, offer.payload)
            if not self.plain:
                args += (bounded_priority(offer), offer.delay_s)
        return args


def offer(
    asking: Asking,
    target: str,
    offers: Sequence[Offer],
    *,
    round_robin: bool,
    sent: Callable[[], None] | None = None,
) -> Admission:
    """See ``Store.offer``; calls ``sent`` once the whole batch is sent."""
    what = (target, round_robin, tuple(each.task_id for each in offers))
    ready = offers if isinstance(offers, PackedOffers) else PackedOffers(offers)
    to = "1" if round_robin else "0" if ready.bounded else "any"
    head, more = (target, to, int(not ready.plain)), ready.arguments
    return admission_of(asking.ask("offer", what, *head, more=more, sent=sent))


def admission_of(reply: bytes) -> Admission:
    """Decode the reply of ``offer`` and ``offer_groups``."""
    depth, bound, verdicts = reply.split(b" ")
    return Admission(tuple(_VERDICTS[letter] for letter in verdicts), int(depth), int(bound))
