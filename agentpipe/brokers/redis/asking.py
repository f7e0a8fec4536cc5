"""Asking: runs scripts as numbered requests, so that none takes effect twice."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.redis.idempotency import Requests
from agentpipe.brokers.redis.packing import NOTHING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

    from agentpipe.brokers.redis.packing import Argument, Packed
    from agentpipe.brokers.redis.script_runner import ScriptRunner

# How long the server remembers replies. Longer outages are not covered.
REMEMBER_S = 86_400


class Asking:
    """Sends numbered requests to one server. Thread-safe.

    Attributes:
        base: Beginning of the store's keys.
    """

    def __init__(self, scripts: ScriptRunner) -> None:
        self._scripts, self._requests, self.base = scripts, Requests(), scripts.base

    def ask(
        self,
        script: str,
        what: Hashable,
        *args: Argument,
        more: Packed = NOTHING,
        before: Sequence[list[bytes]] = (),
        sent: Callable[[], None] | None = None,
    ) -> Any:
        """Run a script as a new request, or repeat the request whose reply was lost.

        ``what`` identifies the request. For ``more`` to ``sent`` see ``ScriptRunner.run``.
        """
        with self.asked(script, what, *args, more=more, before=before, sent=sent) as reply:
            return reply

    @contextmanager
    def asked(
        self,
        script: str,
        what: Hashable,
        *args: Argument,
        more: Packed = NOTHING,
        before: Sequence[list[bytes]] = (),
        sent: Callable[[], None] | None = None,
    ) -> Iterator[Any]:
        """Like ``ask``; the request is also repeated if the body raises ``Unreachable``."""
        with self._requests.request((script, what)) as request:
            numbered = (request.name, request.number, REMEMBER_S)
            given = (*numbered, *args)
            yield self._scripts.run(script, *given, more=more, before=before, sent=sent)

    def settle_and_claim(
        self, settled: Hashable, claimed: Hashable, *args: Argument
    ) -> tuple[bytes, Any]:
        """Settle and claim in one call, under two requests: each can be repeated on its own."""
        with (
            self._requests.request(("settle", settled)) as settling,
            self._requests.request(("claim", claimed)) as claiming,
        ):
            done, claims = self._scripts.run(
                "settle_and_claim",
                settling.name,
                settling.number,
                REMEMBER_S,
                claiming.name,
                claiming.number,
                REMEMBER_S,
                *args,
            )
        return done, claims
