"""Arrivals: decodes deliveries and confirmations on one channel. Delivery: one message."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pika import spec

from agentpipe.connections.amqp.wire import (
    BODY,
    HEADER,
    METHOD,
    headers_in,
    method_at,
    number_at,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_DELIVER, _GET_OK, _GET_EMPTY, _ACK, _NACK = (
    spec.Basic.Deliver.INDEX,
    spec.Basic.GetOk.INDEX,
    spec.Basic.GetEmpty.INDEX,
    spec.Basic.Ack.INDEX,
    spec.Basic.Nack.INDEX,
)
# Sizes in bytes: a method's index, a delivery tag, and the fields before a body's size.
_INDEX, _TAG, _BEFORE_SIZE = 4, 8, 4
_MULTIPLE = 1


@dataclass(slots=True)
class Delivery:
    """A delivered message."""

    tag: int
    redelivered: bool
    headers: dict[str, Any] = field(default_factory=dict)
    body: bytes = b""


class Arrivals:
    """Assembles deliveries from frames and reports confirmations.

    Args:
        delivered: Called with the consumer tag (None for the answer to a get) and the delivery
            (None if the queue was empty).
        confirmed: Called with a message's number, whether the confirmation includes all earlier
            messages, and whether the server accepted them.
    """

    def __init__(
        self,
        delivered: Callable[[str | None, Delivery | None], None],
        confirmed: Callable[[int, bool, bool], None],
    ) -> None:
        self._delivered, self._confirmed = delivered, confirmed
        self._consumer: str | None = None
        self._delivery: Delivery | None = None
        self._left, self._parts = 0, list[bytes]()

    def take(self, kind: int, frames: bytes, begin: int, end: int) -> bool:
        """Process the frame content from ``begin`` to ``end``; False leaves the frame to pika."""
        if kind == METHOD:
            return self._take_method(frames, begin)
        if self._delivery is None:
            return False
        if kind == HEADER:
            self._left = number_at(frames, begin + _BEFORE_SIZE)
            self._delivery.headers = headers_in(frames, begin + _BEFORE_SIZE + _TAG)
        elif kind == BODY:
            self._left -= end - begin
            self._parts.append(frames[begin:end])
        if self._left <= 0:
            self._finish(self._delivery)
        return True

    def _take_method(self, frames: bytes, begin: int) -> bool:
        index, at = method_at(frames, begin), begin + _INDEX
        if index == _DELIVER:
            after = at + 1 + frames[at]
            self._consumer = frames[at + 1 : after].decode()
            self._delivery = _begun(frames, after)
        elif index == _GET_OK:
            self._consumer, self._delivery = None, _begun(frames, at)
        elif index == _GET_EMPTY:
            self._delivered(None, None)
        elif index in (_ACK, _NACK):
            multiple = bool(frames[at + _TAG] & _MULTIPLE)
            self._confirmed(number_at(frames, at), multiple, index == _ACK)
        else:
            return False
        return True

    def _finish(self, delivery: Delivery) -> None:
        delivery.body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._delivery, self._parts = None, []
        self._delivered(self._consumer, delivery)


def _begun(frames: bytes, at: int) -> Delivery:
    return Delivery(number_at(frames, at), bool(frames[at + _TAG]))
