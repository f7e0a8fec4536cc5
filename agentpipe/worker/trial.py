"""Trial: one run in this process, without broker and sink, settled as in a worker.

The agents, their loop and the handling of a run's outcome are a worker's. Only the source of tasks
and the sink of results are missing: a failure that a worker would retry is final here.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, cast

from agentpipe.brokers.records import Claim
from agentpipe.core import masking
from agentpipe.core.agent_thread import join_closed
from agentpipe.core.failures import error_record
from agentpipe.core.result import Result
from agentpipe.engines.instance import CANCEL_GRACE_S
from agentpipe.errors import AgentFailed
from agentpipe.sending.broker import declared_broker
from agentpipe.worker.loop.event_loop import EventLoop
from agentpipe.worker.loop.signals import Signals
from agentpipe.worker.outcomes.results import ResultsMiddleware
from agentpipe.worker.private_broker import private_broker
from agentpipe.worker.runners import make_runners
from agentpipe.worker.running.message import ClaimedMessage
from agentpipe.worker.times import SHUTDOWN_S
from agentpipe.worker.watch.last_word import LastWord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.records import Queue, Settlement
    from agentpipe.config.collection import AgentSpec, Collection
    from agentpipe.core.task import Task
    from agentpipe.core.trace import Tracer
    from agentpipe.sending.broker import StoreBroker
    from agentpipe.worker.loop.message_loop import LoopDeath
    from agentpipe.worker.running.runner import Runner

WORKER = "try"
# The run and its evaluation each have the time limit; a blocked loop ends neither.
LIMITS, SPARE_S = 2, 10.0
_LOOK_S = 0.2


class Trial:
    """One agent of a collection, ready to run one task; its caller closes it."""

    def __init__(self, collection: Collection, agent: AgentSpec, grace_s: float) -> None:
        """Make the agent, and mask its secrets in everything that this process prints from now on.

        Raises:
            ConfigError: Listing everything wrong with the agents and contexts.
        """
        self._collection = replace(collection, max_retries=0)
        self._agent = agent
        self._results = ResultsMiddleware(WORKER, 0.0)
        self._events: SimpleQueue[dict[str, Any] | ClaimedMessage | LoopDeath] = SimpleQueue()
        self._broker = private_broker([collection], self._made_broker)
        self._loop = EventLoop(
            self._broker,
            Signals(self._broker, self._results),
            self._settled,
            grace_s=0.0,
            died=self._events.put,
            word=LastWord.of(""),
        )
        self._grace_s = grace_s
        self._message: ClaimedMessage | None = None
        self.result: Result | None = None

    def run(self, task: Task) -> Iterator[dict[str, Any]]:
        """Run the task; yield its spans as they end, masked. ``result`` is set after the last.

        Raises:
            KeyboardInterrupt: The run has been ended by then.
        """
        self._message = message = ClaimedMessage(self._claim(task))
        limit_s = LIMITS * self._collection.time_limit_s + SPARE_S
        self._loop.start()
        self._loop.start_runs([message])
        redactor = masking.redactor()
        for span in self._spans(time.monotonic() + limit_s):
            yield redactor.value(span)
        self.result = self._result_of(message)

    def close(self) -> None:
        """Give a running task the grace to end, then stop the loop and all that it started."""
        if self._message is not None and self._message.settlement is None:
            self._loop.interrupt([self._message])
            self._wait(self._grace_s)
        self._loop.stop()
        if self._loop.is_alive():
            self._loop.join(SHUTDOWN_S)
        join_closed(CANCEL_GRACE_S)

    @property
    def is_stuck(self) -> bool:
        """Whether code of the run continues after its end: only its process can end it."""
        return self._loop.is_alive() or self._loop.stray_s > 0

    def _made_broker(self) -> StoreBroker:
        runners = make_runners([self._collection], os.environ)
        heard = {name: _Heard(each, self._events) for name, each in runners.items()}
        store = cast("Store", _Nowhere())
        return declared_broker(store, [self._results], [self._collection], heard)

    def _claim(self, task: Task) -> Claim:
        queue, now = self._agent.queue, time.time()
        return Claim(task.task_id, queue, task.encode(), WORKER, 1, submitted_at=now)

    def _settled(self, messages: Iterable[ClaimedMessage]) -> None:
        for message in messages:
            self._events.put(message)

    def _spans(self, deadline: float) -> Iterator[dict[str, Any]]:
        """Yield spans until the run is settled, its loop has ended, or it far exceeds its limit."""
        while time.monotonic() < deadline:
            try:
                event = self._events.get(timeout=_LOOK_S)
            except Empty:
                continue
            if not isinstance(event, dict):
                return
            yield event

    def _wait(self, limit_s: float) -> None:
        for _ in self._spans(time.monotonic() + limit_s):
            pass

    def _result_of(self, message: ClaimedMessage) -> Result:
        settlement = message.settlement or self._results.exceeded(self._broker, message)
        if settlement.result:
            return Result.decode(settlement.result)
        return self._given_up(message, settlement)

    def _given_up(self, message: ClaimedMessage, settlement: Settlement) -> Result:
        """The Result of a run that a worker would retry later, for example after a rate limit."""
        kind, _, said = settlement.reason.partition(": ")
        redactor = masking.redactor()
        return Result.of(
            message.task,
            task_id=message.claim.task_id,
            collection=self._collection.name,
            agent=self._agent.queue,
            attempt=1,
            outcome="infra_error",
            error=error_record(AgentFailed(said or settlement.action, kind=kind), redactor),
            trace=redactor.value(message.tracer.spans) if message.tracer else [],
            worker=WORKER,
        )


class _Heard:
    """A runner that passes its spans on."""

    def __init__(self, runner: Runner, spans: SimpleQueue[Any]) -> None:
        self._runner, self._spans = runner, spans
        self.secrets, self.refusals, self.close = runner.secrets, runner.refusals, runner.close

    async def run(self, task: Task, tracer: Tracer, answered: Callable[[Any], None]) -> Any:
        """Run as the runner does."""
        tracer.heard = self._spans.put
        return await self._runner.run(task, tracer, answered)


class _Nowhere:
    """A store that only accepts declarations of queues."""

    def declare(self, queues: Iterable[Queue]) -> None:
        """Do nothing: no other process serves them."""

    def close(self) -> None:
        """Do nothing: nothing is open."""
