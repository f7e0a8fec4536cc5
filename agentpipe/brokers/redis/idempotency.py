"""Idempotency: numbered requests. A request whose reply was lost can be repeated safely.

Each session numbers its requests, and the server remembers the last reply per session. A request
that repeats the number gets the same reply again. A late one, after a higher number, is ignored.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agentpipe.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

# Requests without a reply that are kept. The oldest is dropped first: its repetition is unlikely.
MAX_UNSURE = 1_000


@dataclass(slots=True)
class NumberedRequest:
    """A request without a reply yet.

    Attributes:
        repeated: Whether an earlier attempt got no reply.
    """

    session: str = field(default_factory=lambda: secrets.token_hex(8))
    number: int = 1
    repeated: bool = False

    @property
    def name(self) -> str:
        """The session id; a forked process gets its own."""
        return f"{self.session}-{os.getpid()}"


class Requests:
    """The requests of one process. Thread-safe."""

    def __init__(self) -> None:
        self._idle: list[NumberedRequest] = []
        self._unsure: OrderedDict[Hashable, NumberedRequest] = OrderedDict()
        self._mutex = threading.Lock()

    @contextmanager
    def request(self, what: Hashable) -> Iterator[NumberedRequest]:
        """Yield a request for ``what``; the same one again until it gets a reply."""
        request = self._begin(what)
        try:
            yield request
        except Unreachable:
            self._keep(what, request)
            raise
        else:
            self._end(request)

    def _begin(self, what: Hashable) -> NumberedRequest:
        with self._mutex:
            if (unsure := self._unsure.pop(what, None)) is not None:
                unsure.repeated = True
                return unsure
            return self._idle.pop() if self._idle else NumberedRequest()

    def _keep(self, what: Hashable, request: NumberedRequest) -> None:
        with self._mutex:
            self._unsure[what] = request
            if len(self._unsure) > MAX_UNSURE:
                self._unsure.popitem(last=False)

    def _end(self, request: NumberedRequest) -> None:
        request.number += 1
        request.repeated = False
        with self._mutex:
            self._idle.append(request)
