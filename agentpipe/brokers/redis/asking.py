"""Asking: runs scripts under numbered requests, so that none is carried out twice."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.redis.idempotency import Requests
from agentpipe.brokers.redis.packing import NOTHING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from agentpipe.brokers.redis.packing import Argument, Packed
    from agentpipe.brokers.redis.script_runner import ScriptRunner

# How long replies are remembered: an outage that lasts longer is another day.
REMEMBER_S = 86_400


class Asking:
    """Asks one server; from any thread."""

    def __init__(self, scripts: ScriptRunner) -> None:
        self._scripts, self._requests = scripts, Requests()

    def ask(
        self,
        script: str,
        what: Hashable,
        *args: Argument,
        more: Packed = NOTHING,
        sent: Callable[[], None] | None = None,
    ) -> Any:
        """Run a script under a new request, or under that of an attempt whose reply was lost.

        For ``more`` and ``sent`` see ``ScriptRunner.run``.
        """
        with self._requests.request((script, what)) as request:
            numbered = (request.name, request.number, REMEMBER_S)
            return self._scripts.run(script, *numbered, *args, more=more, sent=sent)

    @contextmanager
    def asked(self, script: str, what: Hashable, *args: Argument) -> Iterator[Any]:
        """``ask``, with questions that belong to it: without their replies it is asked again."""
        with self._requests.request((script, what)) as request:
            yield self._scripts.run(script, request.name, request.number, REMEMBER_S, *args)

    def settle_and_claim(
        self, settled: Hashable, claimed: Hashable, *args: Argument
    ) -> tuple[bytes, Any]:
        """Settle and claim in one call; without a reply, either is asked for alone, or again."""
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
