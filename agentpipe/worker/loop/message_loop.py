"""MessageLoop: an event loop that knows for which message each piece of code runs.

All that a run starts, tasks and callbacks alike, inherits its context, and the context its message.
"""

from __future__ import annotations

import asyncio
import contextvars
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentpipe.core.loop_turns import CountedLoop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from agentpipe.worker.running.message import ClaimedMessage

current_message: contextvars.ContextVar[ClaimedMessage | None] = contextvars.ContextVar(
    "agentpipe_message", default=None
)
# Of asyncio: runs one ready callback, or one step of a task, in its context.
_STEP = asyncio.Handle._run.__code__  # noqa: SLF001 - a contract test holds it


@dataclass(frozen=True, slots=True)
class LoopDeath:
    """Why a loop ended that was to run.

    Attributes:
        culprit: The message whose code ended it; None where that is not known.
    """

    reason: str
    culprit: ClaimedMessage | None


class MessageLoop(CountedLoop):
    """Remembers whose code asked it to stop."""

    def __init__(self) -> None:
        super().__init__()
        self._stopped_by: ClaimedMessage | None = None

    def stop(self) -> None:
        """End the loop after this turn."""
        self._stopped_by = current_message.get()
        super().stop()

    def death(self, error: BaseException | None) -> LoopDeath:
        """Why it has ended: ``error`` is what came out of it, None after ``stop``."""
        if error is None:
            return LoopDeath("loop.stop() was called", self._stopped_by)
        culprit, trace = None, error.__traceback__
        while trace is not None:
            culprit = _message_of(trace.tb_frame) or culprit
            trace = trace.tb_next
        return LoopDeath(f"{type(error).__name__} was raised", culprit)


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
