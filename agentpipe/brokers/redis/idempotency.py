"""Idempotency: numbered requests; one whose reply was lost is repeated, not done twice.

A session numbers what it asks. The server remembers the last answer in each: a repetition of
the same number gets that answer again, and what comes late, after a higher number, is ignored.
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

# Requests without a reply; the oldest is dropped for a new one, since it is not repeated.
MAX_UNSURE = 1_000


@dataclass(slots=True)
class NumberedRequest:
    """A request without a reply yet.

    Attributes:
        repeated: An earlier attempt got no answer.
    """

    session: str = field(default_factory=lambda: secrets.token_hex(8))
    number: int = 1
    repeated: bool = False

    @property
    def name(self) -> str:
        """The session id; a fork gets its own."""
        return f"{self.session}-{os.getpid()}"


class Requests:
    """The requests of one process; from any thread."""

    def __init__(self) -> None:
        self._idle: list[NumberedRequest] = []
        self._unsure: OrderedDict[Hashable, NumberedRequest] = OrderedDict()
        self._mutex = threading.Lock()

    @contextmanager
    def request(self, what: Hashable) -> Iterator[NumberedRequest]:
        """A request for ``what``: the same one again, until its reply has come."""
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
