"""LoopThread: the event loop on which all runs of a process live."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from dramatiq.middleware import SkipMessage

from agentpipe.brokers.records import Settlement
from agentpipe.core.agent_thread import call_in_thread
from agentpipe.core.logs import Bound, bound
from agentpipe.core.trace import Tracer
from agentpipe.errors import Cancelled, Interrupted
from agentpipe.sending.actor import AgentActor
from agentpipe.worker.consumer import LAST_WORDS_S

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentpipe.sending.broker import ClaimedMessage, StoreBroker
    from agentpipe.worker.consumer import Consumer


class LoopThread(threading.Thread):
    """The event loop that all runs share. Stands in for Dramatiq's worker threads."""

    def __init__(self, broker: StoreBroker, consumer: Consumer, grace_s: float) -> None:
        super().__init__(name="agentpipe-loop", daemon=True)
        self._broker, self._consumer, self._grace_s = broker, consumer, grace_s
        self._loop = asyncio.new_event_loop()
        self._loop.set_task_factory(_make_task)
        self._runs: dict[asyncio.Task[None], ClaimedMessage] = {}
        self._interrupted: set[str] = set()
        self._cancelled: set[str] = set()
        self._ended_runs: list[ClaimedMessage] = []
        self._turned = True
        self._asked_at = self._lag_s = 0.0

    def run(self) -> None:
        """Turn until ``stop``."""
        self._loop.run_forever()

    def start_runs(self, messages: list[ClaimedMessage]) -> None:
        """Run claimed messages; from any thread."""
        self._loop.call_soon_threadsafe(self._start_runs, messages)

    def stop(self) -> None:
        """Let runs finish within the grace, interrupt the rest, close the agents, and end."""
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop)

    def interrupt_all(self) -> None:
        """End all runs and give their tasks back; from any thread."""
        self._loop.call_soon_threadsafe(self._interrupt, list(self._runs))

    def cancel(self, task_ids: frozenset[str]) -> None:
        """End the runs of these tasks, for good; from any thread."""
        self._loop.call_soon_threadsafe(self._cancel, task_ids)

    def ask_to_turn(self) -> bool:
        """Whether the loop has turned since the last call; from one thread."""
        turned, self._turned = self._turned, False
        if turned:
            self._asked_at = time.monotonic()
        self._loop.call_soon_threadsafe(self._note_turn)
        return turned

    def take_lag_s(self) -> float:
        """How late it was at most since the last call; from the thread that asks it to turn."""
        late_s = 0.0 if self._turned else time.monotonic() - self._asked_at
        lag_s, self._lag_s = max(self._lag_s, late_s), 0.0
        return lag_s

    def running(self) -> ClaimedMessage | None:
        """Whose code the loop's thread is in now, if an agent's; from any thread."""
        task = asyncio.current_task(self._loop)
        return task.message if isinstance(task, _Task) else None

    def stack(self) -> str:
        """Where the loop's thread is now."""
        frame = sys._current_frames().get(self.ident or 0)  # noqa: SLF001 - documented for debuggers
        return "".join(traceback.format_stack(frame)) if frame else ""

    def _note_turn(self) -> None:
        if not self._turned:
            self._lag_s = max(self._lag_s, time.monotonic() - self._asked_at)
        self._turned = True

    def _start_runs(self, messages: Iterable[ClaimedMessage]) -> None:
        for message in messages:
            context = contextvars.copy_context()
            context.run(_bind, message)
            run = self._loop.create_task(self._process(message), context=context)
            self._runs[run] = message
            run.add_done_callback(self._ended)

    def _ended(self, run: asyncio.Task[None]) -> None:
        message = self._runs.pop(run)
        self._interrupted.discard(message.claim.task_id)
        self._cancelled.discard(message.claim.task_id)
        if run.cancelled():  # Before its first step.
            message.settlement = Settlement(message.claim, "release")
        if not self._ended_runs:
            # Those that end together are settled together.
            self._loop.call_soon(self._post_ended)
        self._ended_runs.append(message)

    def _post_ended(self) -> None:
        ended, self._ended_runs = self._ended_runs, []
        self._consumer.post_process(ended)

    async def _process(self, message: ClaimedMessage) -> None:
        """Dramatiq's life of a message: signals before and after, whatever happens between."""
        try:
            self._broker.emit_before("process_message", message)
            outcome = await self._perform(message)
            self._broker.emit_after("process_message", message, result=outcome)
        except SkipMessage:
            self._broker.emit_after("skip_message", message)
        except BaseException as error:  # noqa: BLE001 - all of it is the run's outcome
            ending = self._why_ended(message) or error
            self._broker.emit_after("process_message", message, exception=ending)

    def _why_ended(self, message: ClaimedMessage) -> BaseException | None:
        """What ended a run from outside, if anything did."""
        task_id = message.claim.task_id
        if task_id in self._cancelled:
            return Cancelled()
        return Interrupted() if task_id in self._interrupted else None

    async def _perform(self, message: ClaimedMessage) -> Any:
        actor = self._broker.get_actor(message.actor_name)
        if isinstance(actor, AgentActor):
            assert actor.runner is not None
            assert message.task is not None
            message.tracer = Tracer()
            return await actor.runner.run(message.task, message.tracer)
        function = getattr(actor.fn, "__wrapped__", actor.fn)  # Below Dramatiq's async_to_sync.
        if asyncio.iscoroutinefunction(function):
            return await function(*message.args, **message.kwargs)
        return await call_in_thread(lambda: actor(*message.args, **message.kwargs))

    async def _finish(self) -> None:
        if self._runs:
            await asyncio.wait(set(self._runs), timeout=self._grace_s)
        self._interrupt(list(self._runs))
        if self._runs:
            await asyncio.wait(set(self._runs), timeout=LAST_WORDS_S)
        actors = self._broker.actors.values()
        runners = [actor.runner for actor in actors if isinstance(actor, AgentActor)]
        await asyncio.gather(*(runner.close() for runner in runners if runner is not None))
        self._loop.stop()

    def _interrupt(self, runs: Iterable[asyncio.Task[None]]) -> None:
        for run in runs:
            if run in self._runs:
                self._interrupted.add(self._runs[run].claim.task_id)
                run.cancel()

    def _cancel(self, task_ids: frozenset[str]) -> None:
        for run, message in self._runs.items():
            task_id = message.claim.task_id
            if task_id in task_ids and task_id not in self._cancelled:
                self._cancelled.add(task_id)
                run.cancel()


_message: contextvars.ContextVar[ClaimedMessage | None] = contextvars.ContextVar(
    "agentpipe_message", default=None
)


def _bind(message: ClaimedMessage) -> None:
    _message.set(message)
    bound.set(Bound(message.claim.task_id, message.claim.queue))


class _Task(asyncio.Task[Any]):
    """A task of the loop that knows for which message it is, as do those that agents start."""

    message: ClaimedMessage | None = None


def _make_task(
    loop: asyncio.AbstractEventLoop,
    coroutine: Any,
    context: contextvars.Context | None = None,
    **options: Any,
) -> _Task:
    task = _Task(coroutine, loop=loop, context=context, **options)
    task.message = _message.get() if context is None else context.get(_message)
    return task
