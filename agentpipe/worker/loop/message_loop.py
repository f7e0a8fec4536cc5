"""MessageLoop: an event loop that knows for which message each piece of code runs.

Every task and callback that a run starts inherits its context, which holds the message.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from agentpipe.core.loop_turns import CountedLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from agentpipe.worker.running.message import ClaimedMessage

current_message: contextvars.ContextVar[ClaimedMessage | None] = contextvars.ContextVar(
    "agentpipe_message", default=None
)
# asyncio's function that runs one ready callback, or one step of a task, in its context.
_STEP = asyncio.Handle._run.__code__  # noqa: SLF001 - a contract test covers it


@dataclass(frozen=True, slots=True)
class LoopDeath:
    """Why a loop ended unexpectedly.

    Attributes:
        culprit: The message whose code ended it; None if unknown.
    """

    reason: str
    culprit: ClaimedMessage | None


class MessageLoop(CountedLoop):
    """Remembers whose code stopped it, and refuses changes by one run that affect others."""

    def __init__(self) -> None:
        super().__init__()
        self._stopped_by: ClaimedMessage | None = None
        _loops.add(self)

    def set_task_factory(self, factory: Any) -> None:
        """Refuse in a run: the factory would also start other runs."""
        _refuse_to_runs("set_task_factory")
        super().set_task_factory(factory)

    def set_default_executor(self, executor: Any) -> None:
        """Refuse in a run: other runs would get their threads from this executor."""
        _refuse_to_runs("set_default_executor")
        super().set_default_executor(executor)

    async def shutdown_default_executor(self, *options: Any) -> None:
        """Refuse in a run: no other run would get a thread afterwards."""
        _refuse_to_runs("shutdown_default_executor")
        await super().shutdown_default_executor(*options)

    async def shutdown_asyncgens(self) -> None:
        """Refuse in a run: it ends the generators of other runs."""
        _refuse_to_runs("shutdown_asyncgens")
        await super().shutdown_asyncgens()

    def call_first_threadsafe(self, callback: Callable[..., object], *args: Any) -> None:
        """Call it before everything that is ready, which can be a thousand ends; thread-safe."""
        self._check_closed()  # type: ignore[attr-defined]  # as in ``end_copy``
        handle = asyncio.Handle(callback, args, self)
        self._ready.appendleft(handle)  # type: ignore[attr-defined]  # as in ``end_copy``
        self._write_to_self()  # type: ignore[attr-defined]  # as in ``end_copy``

    def end_copy(self) -> None:
        """End the process at the next turn; called in a child that a run's ``os.fork`` made.

        The child would otherwise continue copies of all runs, and read the parent's wake-ups from
        the shared socket.
        """
        # Both attributes are private to asyncio's loop and so have no types.
        if self._thread_id == threading.get_ident():  # type: ignore[attr-defined]  # as above
            exits = asyncio.Handle(os._exit, (1,), self)
            self._ready.appendleft(exits)  # type: ignore[attr-defined]  # as above

    def stop(self) -> None:
        """End the loop after this turn."""
        self._stopped_by = current_message.get()
        super().stop()

    def death(self, error: BaseException | None) -> LoopDeath:
        """Return why the loop ended: ``error`` is what it raised, None after ``stop``."""
        if error is None:
            return LoopDeath("loop.stop() was called", self._stopped_by)
        culprit, trace = None, error.__traceback__
        while trace is not None:
            culprit = _message_of(trace.tb_frame) or culprit
            trace = trace.tb_next
        return LoopDeath(f"{type(error).__name__} was raised", culprit)


class OwnTasks:
    """Replaces a message for the worker's own tasks; never settled."""

    settlement = None


WORKERS = OwnTasks()


class RunTask(asyncio.Task[Any]):
    """A task of a run, or of the worker; other runs cannot cancel it while its run lasts.

    Their code can try: ``for each in asyncio.all_tasks(): each.cancel()``.

    What an agent starts in its first run can be cancelled in its next one. A cancelled task passes
    the cancellation on to what it awaits, even in another run: otherwise it would wait for that to
    end, beyond any time limit.
    """

    __slots__ = ("message",)
    # Cancellations in progress; all of them on the loop's thread.
    _passing_on: ClassVar[int] = 0
    message: ClaimedMessage | OwnTasks | None

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel it, unless the code of another run asks while its own run continues."""
        asks, own = current_message.get(), self.message
        is_others = own is not None and asks not in (None, own) and own.settlement is None
        if is_others and not RunTask._passing_on:
            return False
        RunTask._passing_on += 1
        try:
            return super().cancel(msg)
        finally:
            RunTask._passing_on -= 1


_loops: weakref.WeakSet[MessageLoop] = weakref.WeakSet()


def _end_copies() -> None:
    for loop in _loops:
        loop.end_copy()


os.register_at_fork(after_in_child=_end_copies)


def _refuse_to_runs(what: str) -> None:
    if current_message.get() is not None:
        raise RuntimeError(
            f"loop.{what}() would change the event loop of all runs of this worker: leave it out, "
            "or give the collection `isolation: thread`"
        )


def message_executing(frame: FrameType | None) -> ClaimedMessage | None:
    """The message for which the innermost ``frame`` of a thread runs, if any."""
    for each in _outwards(frame):
        if each.f_code is _STEP:
            return _message_of(each)
    return None


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _message_of(frame: FrameType) -> ClaimedMessage | None:
    handle = frame.f_locals.get("self") if frame.f_code is _STEP else None
    context: contextvars.Context | None = getattr(handle, "_context", None)
    return None if context is None else context.get(current_message)
