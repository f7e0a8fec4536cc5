"""ModelCalls: a run's requests to models. If the run fails, the one that ended last says why."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agentpipe.engines.gateway.blame import explains
from agentpipe.engines.policies import paused_for_long
from agentpipe.errors import AgentFailed, RunLimitExceeded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    from agentpipe.engines.gateway.http_server import Reply

    Failure: TypeAlias = AgentFailed | RunLimitExceeded

# A client that hangs up after a shorter silence has not given up: it needs no more of the answer.
MIN_SILENCE_S = 1.0


class ModelCall:
    """One request, until the model has answered or failed, or the client has hung up.

    Attributes:
        reply: Where its answer goes.
        failure: Why the client got no answer; None if it got one, or did not wait for it.
        gave_up: Whether the client hung up before the end.
        is_held: Whether it waits for a paused policy, not for a server.
    """

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.failure: Failure | None = None
        self.gave_up = self.is_held = False
        self._heard_at = time.monotonic()
        self._ended_at: float | None = None

    def heard(self) -> None:
        """Note that the server has sent something."""
        if self._ended_at is None and self.reply.hung_up_at is None:
            self._heard_at = time.monotonic()

    def end(self, failure: Failure | None) -> None:
        """Note the whole answer, which is too late once the client hung up, or a failure."""
        if self._ended_at is not None:
            return
        hung_up_at = self.reply.hung_up_at
        if hung_up_at is None:
            self._ended_at, self.failure = time.monotonic(), failure
        else:  # Perhaps only its half of the connection is closed, and it waits for the answer.
            self._ended_at, self.gave_up = hung_up_at, True
            self.failure = failure or self._given_up(hung_up_at)

    @property
    def ended_at(self) -> float | None:
        """The monotonic time of its end; None if it goes on."""
        if self._ended_at is None and self.reply.hung_up_at is not None:
            self.end(None)
        return self._ended_at

    def _given_up(self, hung_up_at: float) -> Failure | None:
        silence_s = hung_up_at - self._heard_at
        if silence_s < MIN_SILENCE_S:
            return None
        if self.is_held:
            return paused_for_long()
        text = f"the model sent nothing for {silence_s:.1f} s, until the agent gave up"
        return AgentFailed(text, kind="ModelTimeout", infra=True)


class ModelCalls:
    """The requests of one run."""

    def __init__(self) -> None:
        self._open: set[ModelCall] = set()
        self._last_at = 0.0
        self._last: ModelCall | None = None

    @contextmanager
    def begin(self, reply: Reply) -> Iterator[ModelCall]:
        """A new request; what the block raises is the gateway's failure, unless the client left."""
        call = ModelCall(reply)
        self._open.add(call)
        try:
            yield call
        except ConnectionError:
            raise
        except Exception as error:
            text = f"the gateway could not pass on an answer: {type(error).__name__}: {error}"
            call.end(AgentFailed(text, kind="GatewayFailed", infra=True))
            raise
        finally:
            self._note(call)

    def failure_behind(self, error: Exception) -> Failure | None:
        """Why the request that ended last failed, if that explains ``error``; otherwise None."""
        for call in [*self._open]:
            call.reply.look()
            if call.ended_at is not None:
                self._note(call)
        last = self._last
        if last is None or last.failure is None:
            return None
        return last.failure if explains(last.failure, error, gave_up=last.gave_up) else None

    def _note(self, call: ModelCall) -> None:
        if call not in self._open:
            return
        self._open.discard(call)
        if call.ended_at is not None and call.ended_at >= self._last_at:
            self._last_at, self._last = call.ended_at, call
