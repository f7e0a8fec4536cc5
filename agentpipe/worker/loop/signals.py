"""Signals: Dramatiq's signals around each run, and what follows a run's end.

Middleware hooks can block on a database or a lock: they run in threads, so they block no other run.
If no middleware has hooks, everything stays on the loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from contextlib import contextmanager, suppress
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import dramatiq
from dramatiq.asyncio import get_event_loop_thread, set_event_loop_thread
from dramatiq.middleware import MiddlewareError, SkipMessage

from agentpipe.core.agent_thread import ended
from agentpipe.errors import AgentpipeError
from agentpipe.worker.loop.thread_pool import ThreadPool
from agentpipe.worker.outcomes import follow_ups
from agentpipe.worker.outcomes.changed_options import with_options
from agentpipe.worker.outcomes.shown import shown_answer, shown_error
from agentpipe.worker.running.plain_actor import WorkersLoop
from agentpipe.worker.running.plain_failures import is_thrown
from agentpipe.worker.running.runner import Completed
from agentpipe.worker.running.served_actor import served_actor

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from agentpipe.brokers.records import Offer, Settlement
    from agentpipe.sending.broker import StoreBroker
    from agentpipe.worker.outcomes.results import ResultsMiddleware
    from agentpipe.worker.running.message import ClaimedMessage

_HOOKS = (
    "before_process_message",
    "after_process_message",
    "after_skip_message",
    "before_ack",
    "after_ack",
    "before_nack",
    "after_nack",
    "before_enqueue",
    "after_enqueue",
)
# Other actions put a task back as if it had not run.
_ENDS = frozenset({"complete", "bury", "retry"})

log = logging.getLogger(__name__)


class Signals:
    """Emits the signals of messages that run on one loop."""

    def __init__(self, broker: StoreBroker, results: ResultsMiddleware) -> None:
        self._broker, self._results = broker, results
        self._threads = ThreadPool("agentpipe-actor", self._in_worker_thread)
        self._looked_at, self._heard = list[dramatiq.Middleware](), False

    # These methods return coroutines instead of awaiting them: it saves a frame per run.

    def before(self, message: ClaimedMessage) -> Coroutine[Any, Any, None]:
        """Announce a run, and give it a thread if it needs one; await the result at once.

        Raises:
            SkipMessage: The message must not run.
        """
        _provide_loop()
        actor = served_actor(self._broker, message.actor_name)
        if actor is not None and actor.runs_in_thread:
            message.context = contextvars.copy_context()
            message.thread = self._threads.take()
        emit = partial(self._broker.emit_before, "process_message", message)
        return self._emit(message, emit)

    def after(
        self, message: ClaimedMessage, *, result: Any = None, exception: BaseException | None = None
    ) -> Coroutine[Any, Any, None]:
        """Announce a run's end, which settles it; await the result at once; it never raises."""
        if exception is None:
            done = isinstance(result, Completed)
            message.completed = result if done else Completed(result)
        return self._conclude(message, partial(self._ended, message, exception))

    def skipped(self, message: ClaimedMessage, skip: SkipMessage) -> Coroutine[Any, Any, None]:
        """Announce that a message was skipped, which settles it; see ``after``."""
        return self._conclude(message, partial(self._skipped, message, skip))

    def release(self, message: ClaimedMessage) -> None:
        """Return the thread of a run that has ended."""
        if message.thread is not None:
            self._threads.give_back(message.thread)
            message.thread = None
        message.context = None
        message.clear_exception()

    def close_idle(self) -> None:
        """End the idle threads."""
        self._threads.close()

    def end_threads(self, limit_s: float) -> Coroutine[Any, Any, None]:
        """End the idle threads, and wait until they and their shutdown hooks have ended."""
        return ended(self._threads.close(), limit_s)

    @contextmanager
    def _in_worker_thread(self) -> Iterator[None]:
        """Emit the boot and shutdown signals of an actor thread; hook errors do not end it."""
        thread = threading.current_thread()
        self._emit_of_thread(self._broker.emit_after, "worker_thread_boot", thread)
        try:
            yield
        finally:
            self._emit_of_thread(self._broker.emit_before, "worker_thread_shutdown", thread)

    def _emit_of_thread(
        self, emit: Callable[..., None], signal: str, thread: threading.Thread
    ) -> None:
        try:
            emit(signal, thread)
        except BaseException:
            log.exception("a middleware failed at %s", signal)

    async def _conclude(self, message: ClaimedMessage, conclude: Callable[[], None]) -> None:
        try:
            await self._emit(message, conclude)
        except asyncio.CancelledError:
            pass  # The run has ended all the same.
        except Exception:
            log.exception(
                "unexpected error after a run",
                extra=message.log_extra,
            )

    async def _emit(self, message: ClaimedMessage, emit: Callable[[], None]) -> None:
        if self._is_heard():
            await _to_its_end(self._in_thread(message, emit))
            _adopt(message.context)
        else:
            emit()

    def _is_heard(self) -> bool:
        """Whether any user middleware has hooks around runs; it can be added at any time."""
        middleware = self._broker.middleware
        if middleware != self._looked_at:
            self._looked_at = [*middleware]
            kinds: Iterator[type] = map(type, middleware)
            self._heard = any(map(_hears, kinds))
        return self._heard

    async def _in_thread(self, message: ClaimedMessage, emit: Callable[[], None]) -> None:
        if message.context is None:
            message.context = contextvars.copy_context()
        thread, context = message.thread, message.context
        mine = thread is None or thread.is_busy
        if thread is not None and thread.is_busy:  # An abandoned run still occupies the thread.
            context = contextvars.copy_context()
        if mine:
            thread = self._threads.take()
        assert thread is not None
        try:
            await thread.call(emit, context)
        except (SystemExit, KeyboardInterrupt) as error:  # They would end the worker's loop.
            raise AgentpipeError(f"a middleware raised {type(error).__name__}") from error
        finally:
            if mine:
                self._threads.give_back(thread)

    def _ended(self, message: ClaimedMessage, error: BaseException | None) -> None:
        value = None
        if error is None:
            value = self._shown(message)
        else:
            message.stuff_exception(shown_error(error))
            if message.ended_by is None:
                message.count_retry()
        with self._broker.taking(follow_ups.of_group(message)) as taken:
            self._emit_end(message, value, error)
        message.follow_ups = [(queue, follow_ups.unbounded(message, it)) for queue, it in taken]
        self._follow(message, value, error)

    def _emit_end(self, message: ClaimedMessage, value: Any, error: BaseException | None) -> None:
        """Settle the message even if a user's hook breaks the signal."""
        try:
            self._broker.emit_after("process_message", message, result=value, exception=error)
        except BaseException:
            log.exception("a middleware failed after a run", extra=message.log_extra)
            self._results.after_process_message(
                self._broker, message, result=value, exception=error
            )

    def _shown(self, message: ClaimedMessage) -> Any:
        """The run's answer, if a hook or a follow-up receives it."""
        if self._is_heard() or not follow_ups.sends_nothing(self._broker, message):
            return shown_answer(message)
        return None

    def _skipped(self, message: ClaimedMessage, skip: SkipMessage) -> None:
        if message.settlement is None:  # A middleware can have settled it.
            message.stuff_exception(skip)
            self._broker.emit_after("skip_message", message)
            self._acknowledge(message, done=not message.failed)
        else:
            self._follow(message, None)

    def _follow(
        self, message: ClaimedMessage, value: Any, raised: BaseException | None = None
    ) -> None:
        """Prepare the follow-ups of a message's end, and acknowledge it."""
        settlement = self._results.settlement_of(self._broker, message)
        try:
            message.follow_ups += self._follow_ups(message, settlement, value, raised)
        except AgentpipeError as error:
            message.stuff_exception(error)
            settlement = self._results.stranded(self._broker, message, error)
        message.settlement = settlement
        self._acknowledge(message, done=settlement.outcome == "ok")

    def _follow_ups(
        self,
        message: ClaimedMessage,
        settlement: Settlement,
        value: Any,
        raised: BaseException | None,
    ) -> list[tuple[str, Offer]]:
        if settlement.action not in _ENDS or follow_ups.sends_nothing(self._broker, message):
            return []
        if settlement.outcome == "ok":
            return follow_ups.of_success(self._broker, message, value)
        error = message.error
        if error is None or isinstance(error, SkipMessage):
            return []
        actor = self._broker.actors.get(message.actor_name)
        exhausted = settlement.action == "bury" and not is_thrown(actor, raised)
        return follow_ups.of_failure(self._broker, message, error, exhausted=exhausted)

    def _acknowledge(self, message: ClaimedMessage, *, done: bool) -> None:
        """Emit what Dramatiq's consumer would emit: waiters learn of the end from it."""
        assert message.settlement is not None
        if message.settlement.action not in _ENDS:
            return
        again = message.settlement.action == "retry"
        if not done and not again:
            message.fail()
            if message.error is None:
                message.stuff_exception(AgentpipeError(message.settlement.reason))
        if again and self._is_heard():
            delay_ms = round(message.settlement.delay_s * 1000)
            self._signal("enqueue", message, delay_ms)
            message.settlement = with_options(self._broker, message, message.settlement)
        self._signal("ack" if done or again else "nack", message)

    def _signal(self, name: str, message: ClaimedMessage, *about: Any) -> None:
        if not self._is_heard():
            return
        with suppress(MiddlewareError):
            self._broker.emit_before(name, message, *about)
        self._broker.emit_after(name, message, *about)


@cache
def _hears(kind: type) -> bool:
    """Whether a user's middleware class has hooks around runs."""
    own = kind.__module__.startswith("agentpipe.")
    return not own and any(
        getattr(kind, hook) is not getattr(dramatiq.Middleware, hook) for hook in _HOOKS
    )


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Finish ``work`` before raising a cancellation."""
    doing, cancelled = asyncio.ensure_future(work), False
    while not doing.done():
        try:
            await asyncio.wait({doing})
        except asyncio.CancelledError:
            cancelled = True
    doing.result()
    if cancelled:
        raise asyncio.CancelledError


def _adopt(context: contextvars.Context | None) -> None:
    """Copy context variables that hooks set in a thread into this context."""
    for variable, value in (context or contextvars.Context()).items():
        if variable.get(None) is not value:
            variable.set(value)


def _provide_loop() -> None:
    """Let plain functions call async actors."""
    if get_event_loop_thread() is None:
        set_event_loop_thread(WorkersLoop(asyncio.get_running_loop()))


def withdraw_loop() -> None:
    """Undo what ``Signals`` set for the process, before its loop ends."""
    if isinstance(get_event_loop_thread(), WorkersLoop):
        set_event_loop_thread(None)
