"""Requests: numbered, so that one whose answer was lost is repeated and not done twice.

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

# Of these, the oldest is given up for a new one: nobody seems to repeat it.
MAX_UNSURE = 1_000


@dataclass(slots=True)
class Request:
    """One that is being asked.

    Attributes:
        repeated: An earlier attempt got no answer.
    """

    session: str = field(default_factory=lambda: secrets.token_hex(8))
    number: int = 1
    repeated: bool = False

    @property
    def name(self) -> str:
        """The session's; a fork has its own."""
        return f"{self.session}-{os.getpid()}"


class Requests:
    """Those of one process; from any thread."""

    def __init__(self) -> None:
        self._idle: list[Request] = []
        self._unsure: OrderedDict[Hashable, Request] = OrderedDict()
        self._mutex = threading.Lock()

    @contextmanager
    def request(self, what: Hashable) -> Iterator[Request]:
        """A request for ``what``: the same once more, while no answer has come."""
        request = self._begin(what)
        try:
            yield request
        except Unreachable:
            self._keep(what, request)
            raise
        else:
            self._end(request)

    def _begin(self, what: Hashable) -> Request:
        with self._mutex:
            if (unsure := self._unsure.pop(what, None)) is not None:
                unsure.repeated = True
                return unsure
            return self._idle.pop() if self._idle else Request()

    def _keep(self, what: Hashable, request: Request) -> None:
        with self._mutex:
            self._unsure[what] = request
            if len(self._unsure) > MAX_UNSURE:
                self._unsure.popitem(last=False)

    def _end(self, request: Request) -> None:
        request.number += 1
        request.repeated = False
        with self._mutex:
            self._idle.append(request)
