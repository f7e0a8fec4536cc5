"""Offering: encodes offers as script arguments and decodes the replies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.brokers.records import Admission, Offer, Verdict
from agentpipe.brokers.redis.packing import NOTHING, Packed, command_of, packed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from agentpipe.brokers.redis.asking import Asking
    from agentpipe.brokers.redis.packing import Argument

MAX_PRIORITY = 2**53  # Scores of sorted sets are doubles.
# How many offers are staged: fewer cost less in the script, and Lua's stack limits `unpack`.
STAGED = range(20, 4_001)
# Keeps the payloads of known tasks, which the next command replaces; `offer` restores them. Sent as
# text: a server that did not have it would carry out the next command all the same.
_KEEP = """#!lua
for index, record in ipairs(redis.call('HMGET', KEYS[1], unpack(ARGV))) do
  if record then
    redis.call('HSETNX', KEYS[3], ARGV[index], redis.call('HGET', KEYS[2], ARGV[index]) or '')
  end
end
"""

_VERDICTS: dict[int, Verdict] = {ord("a"): "accepted", ord("d"): "duplicate", ord("r"): "refused"}


def bounded_priority(offer: Offer) -> int:
    """Return the priority, clamped to the integers that a score holds exactly."""
    return max(-MAX_PRIORITY, min(MAX_PRIORITY, offer.priority))


class PackedOffers(list[Offer]):
    """The offers of one call, encoded for sending; they must not change afterwards.

    Attributes:
        plain: Whether no offer has a priority or a delay.
        bounded: Whether a full queue refuses them.
        arguments: The script's arguments for the offers.
        is_staged: Whether their payloads are stored beside the script: passing a payload through it
            costs the server several times as much.
    """

    def __init__(self, offers: Sequence[Offer]) -> None:
        super().__init__(offers)
        self.plain = not any(offer.priority or offer.delay_s for offer in offers)
        self.bounded = all(offer.bounded for offer in offers)
        ids = [offer.task_id for offer in offers]
        self.is_staged = self.plain and len(ids) in STAGED and len(set(ids)) == len(ids)
        self.arguments: Packed = packed(ids if self.is_staged else self._values())
        self._payloads = packed(self._values()) if self.is_staged else NOTHING

    def _values(self) -> Iterator[Argument]:
        for offer in self:
            yield offer.task_id
            yield offer.payload
            if not self.plain:
                yield bounded_priority(offer)
                yield offer.delay_s

    @property
    def width(self) -> int:
        """The number of the script's arguments per offer."""
        return 1 if self.is_staged else 2 if self.plain else 4

    def commands(self, base: str) -> list[list[bytes]]:
        """Return what precedes the script in its transaction: it stores the staged payloads."""
        if not self.is_staged:
            return []
        keys = f"{base}:tasks", f"{base}:payloads", f"{base}:kept"
        return [
            command_of(("EVAL", _KEEP, len(keys), *keys), self.arguments),
            command_of(("HSET", keys[1]), self._payloads),
        ]


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
    head, before = (target, to, ready.width), ready.commands(asking.base)
    reply = asking.ask("offer", what, *head, more=ready.arguments, before=before, sent=sent)
    return admission_of(reply)


def admission_of(reply: bytes) -> Admission:
    """Decode the reply of ``offer`` and ``offer_groups``."""
    depth, bound, verdicts = reply.split(b" ")
    return Admission(tuple(_VERDICTS[letter] for letter in verdicts), int(depth), int(bound))
