"""EventLoop: the one asyncio loop that executes all runs of a worker process."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from dramatiq.middleware import SkipMessage

from agentpipe.brokers.records import Settlement
from agentpipe.core.agent_thread import RunContinues
from agentpipe.core.background import in_background, is_background
from agentpipe.core.failures import readable
from agentpipe.core.logs import Bound, bound
from agentpipe.core.thread_marks import NO_RUN, MarkingExecutor, run_place
from agentpipe.errors import Cancelled, Interrupted
from agentpipe.worker.loop.message_loop import (
    WORKERS,
    MessageLoop,
    RunTask,
    current_message,
    message_executing,
)
from agentpipe.worker.loop.signals import withdraw_loop
from agentpipe.worker.loop.stepped import Stepped
from agentpipe.worker.running.served_actor import served_actor, served_actors
from agentpipe.worker.times import SHUTDOWN_S

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from agentpipe.sending.broker import StoreBroker
    from agentpipe.worker.loop.message_loop import LoopDeath
    from agentpipe.worker.loop.signals import Signals
    from agentpipe.worker.running.message import ClaimedMessage
    from agentpipe.worker.watch.last_word import LastWord

    Settle = Callable[[list[ClaimedMessage]], None]


@dataclass(frozen=True, slots=True)
class _Stray:
    """Code of a run that continues after its interruption at ``since`` (monotonic clock)."""

    is_over: Callable[[], bool]
    since: float


class EventLoop(threading.Thread):
    """Runs claimed messages. Replaces Dramatiq's worker threads, hence its method names.

    Attributes:
        turns: The loop's turns, for other threads.
        is_paused: Whether claiming is paused, even before any queue has a consumer.
        paused_event: Always set; Dramatiq waits for it.
    """

    def __init__(
        self,
        broker: StoreBroker,
        signals: Signals,
        settle: Settle,
        *,
        settle_many: Settle | None = None,
        together: int = 1,
        grace_s: float,
        died: Callable[[LoopDeath], None],
        word: LastWord,
    ) -> None:
        """``settle_many`` takes batches of ``together``, if that many runs end in the same turn."""
        super().__init__(name="agentpipe-loop", daemon=True)
        self._settle_many, self._together = settle_many or settle, together
        self._signals = signals
        self.is_paused, self.paused_event = False, threading.Event()
        self.paused_event.set()
        self._broker, self._settle, self._grace_s, self._died = broker, settle, grace_s, died
        self._word, self._loop = word, MessageLoop()
        self._loop.set_task_factory(partial(make_task, word.on_loop))
        self._loop.set_default_executor(MarkingExecutor(thread_name_prefix="asyncio"))
        self.turns = self._loop.turns
        self._finished = False
        self._runs: dict[asyncio.Task[None], ClaimedMessage] = {}
        # Runs that continue after they were interrupted.
        self._strays: list[_Stray] = []
        self._ended_runs: list[ClaimedMessage] = []
        self._when_ended = self._ended  # One shared bound method for thousands of runs.

    def run(self) -> None:
        """Run until ``stop``; report it if an agent's code ends the loop earlier."""
        error: BaseException | None = None
        self._word.note_loop()
        try:
            self._loop.run_forever()
        except BaseException as raised:  # noqa: BLE001 - whatever was raised, the loop has ended
            error = raised
        if not self._finished:
            self._died(self._loop.death(error))

    def start_runs(self, messages: list[ClaimedMessage]) -> None:
        """Start claimed messages; thread-safe."""
        self._loop.call_first_threadsafe(self._start_runs, messages)

    def stop(self) -> None:
        """Let runs finish within the grace, interrupt the rest, close the agents, and end."""
        if self.is_alive():
            self._loop.call_soon_threadsafe(self._begin, self._finish)

    @property
    def stray_s(self) -> float:
        """How long code of an interrupted run has continued; 0 if none has; thread-safe."""
        began = [stray.since for stray in self._strays if not stray.is_over()]
        return time.monotonic() - min(began) if began else 0.0

    def pause(self) -> None:
        """Stop claiming; runs in progress end normally."""
        self.is_paused = True

    def resume(self) -> None:
        """Resume claiming."""
        self.is_paused = False
        self._settle([])  # Wakes the consumer.

    def close(self) -> None:
        """Close the loop, once it has ended."""
        if not self.is_alive():
            self._loop.close()

    def interrupt(self, messages: list[ClaimedMessage]) -> None:
        """Interrupt these runs and release their tasks; thread-safe."""
        self._loop.call_soon_threadsafe(self._end_runs, messages, Interrupted)

    def close_idle(self) -> None:
        """Close the agents that wait for their next task; thread-safe."""
        self._loop.call_soon_threadsafe(self._begin, self._close_idle)

    def _begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        in_background(work())

    async def _close_idle(self) -> None:
        self._signals.close_idle()
        await asyncio.gather(*(actor.close() for actor in served_actors(self._broker)))

    def cancel(self, messages: list[ClaimedMessage]) -> None:
        """Cancel these runs; thread-safe."""
        self._loop.call_soon_threadsafe(self._end_runs, messages, Cancelled)

    def executing(self) -> ClaimedMessage | None:
        """The message whose code the loop's thread is executing, if any; thread-safe."""
        return message_executing(sys._current_frames().get(self.ident or 0))  # noqa: SLF001 - documented for debuggers

    def stack(self) -> str:
        """The current stack of the loop's thread."""
        frame = sys._current_frames().get(self.ident or 0)  # noqa: SLF001 - documented for debuggers
        return "".join(traceback.format_stack(frame)) if frame else ""

    def _start_runs(self, messages: Sequence[ClaimedMessage]) -> None:
        """Start them before what is ready: the ends of other runs would keep free slots waiting."""
        for message in messages:
            context = contextvars.copy_context()
            context.run(_bind, message)
            run = self._loop.create_task(
                self._process(message), context=context, name=message.actor_name
            )
            self._runs[run] = message
            run.add_done_callback(self._when_ended, context=self._loop.context)
        self._loop.bring_forward(len(messages))

    def _ended(self, run: asyncio.Task[None]) -> None:
        message = self._runs.pop(run)
        if message.begun_at is None:  # It was cancelled before its first step.
            message.settlement = Settlement(message.claim, "release")
            self._post_soon(message)

    def _post_soon(self, message: ClaimedMessage) -> None:
        """Settle it together with runs that end in the same turn, in batches.

        If a thousand runs end at once, the first are settled while the others end.
        """
        if not self._ended_runs:
            self._loop.call_soon(self._post_ended, context=self._loop.context)
        self._ended_runs.append(message)
        if len(self._ended_runs) >= self._together:
            ended, self._ended_runs = self._ended_runs, []
            self._settle_many(ended)

    def _post_ended(self) -> None:
        ended, self._ended_runs = self._ended_runs, []
        if ended:
            self._settle(ended)

    async def _process(self, message: ClaimedMessage) -> None:
        """Emit Dramatiq's signals before and after a run, whatever happens in between."""
        message.begun_at = time.monotonic()
        self._word.begin(message.place)
        signals = self._signals
        try:
            await signals.before(message)
            outcome = None if message.failed else await self._perform(message)
            await signals.after(message, result=outcome)
        except SkipMessage as skip:
            await signals.skipped(message, skip)
        except BaseException as raised:  # noqa: BLE001 - any error is the run's outcome
            error = readable(raised)
            if isinstance(error, RunContinues) and isinstance(message.ended_by, Interrupted):
                self._note_stray(error)
            await signals.after(message, exception=message.ended_by or error)
        finally:
            signals.release(message)
            self._word.end(message.place)
            self._post_soon(message)

    def _note_stray(self, error: RunContinues) -> None:
        living = [stray for stray in self._strays if not stray.is_over()]
        self._strays = [*living, _Stray(error.is_over, time.monotonic())]

    def _perform(self, message: ClaimedMessage) -> Coroutine[Any, Any, Any]:
        actor = served_actor(self._broker, message.actor_name)
        assert actor is not None  # The results middleware ends a message of an unknown actor.
        return actor.perform(message)

    async def _finish(self) -> None:
        if self._runs:
            await asyncio.wait(set(self._runs), timeout=self._grace_s)
        self._end_runs(list(self._runs.values()), Interrupted)
        if self._runs:
            await asyncio.wait(set(self._runs), timeout=SHUTDOWN_S)
        await self._signals.end_threads(SHUTDOWN_S)
        await self._close_idle()
        self._finished = True
        withdraw_loop()
        self._loop.stop()

    def _end_runs(
        self, messages: Iterable[ClaimedMessage], kind: type[Cancelled | Interrupted]
    ) -> None:
        """End the runs of these claims, and no other claims of the same tasks."""
        keys = {message.claim.key for message in messages}
        for run, message in self._runs.items():
            if message.claim.key in keys:
                _end_run(run, message, kind)


def _end_run(
    run: asyncio.Task[None], message: ClaimedMessage, kind: type[Cancelled | Interrupted]
) -> None:
    """End a run once: a second cancellation would interrupt its cleanup."""
    if message.ended_by is None:
        run.cancel()
    if not isinstance(message.ended_by, Cancelled):
        message.ended_by = kind()


def _bind(message: ClaimedMessage) -> None:
    current_message.set(message)
    run_place.set(message.place)
    bound.set(Bound(message.claim.task_id, message.claim.queue))


def make_task(
    on_loop: memoryview[int],
    loop: asyncio.AbstractEventLoop,
    coroutine: Any,
    context: contextvars.Context | None = None,
    **options: Any,
) -> asyncio.Task[Any]:
    """Create a task that marks each step with its run, to show which run holds the loop."""
    place, message = run_place.get(), current_message.get()
    if context is not None:
        place, message = context.get(run_place, NO_RUN), context.get(current_message)
    if place != NO_RUN:
        coroutine = Stepped(coroutine, on_loop, place)
    task = RunTask(coroutine, loop=loop, context=context, **options)
    task.message = WORKERS if message is None and is_background(context) else message
    return task
