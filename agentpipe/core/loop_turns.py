"""CountedLoop: an event loop whose iterations another thread can watch.

One turn runs everything that is ready, then calls the selector. A turn that does not end is blocked
by one run's code, and every other run on the loop waits for it.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
import time
from typing import TYPE_CHECKING, Any, TypeVar

from agentpipe.core.held_time import held_time

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from agentpipe.core.held_time import HeldTime

T = TypeVar("T")

# A longer turn delays the other runs.
STALL_S = 0.5
# Polling interval while a run is held.
_LOOK_S = 0.1


class TurnCounter(selectors.DefaultSelector):
    """An event loop's selector, which the loop calls once per turn.

    Attributes:
        turns: Number of turns started.
        stalled_s: Total of all turns longer than ``STALL_S``, and of the time the process was
            stopped.
    """

    def __init__(self) -> None:
        super().__init__()
        self.turns = 0
        self.stalled_s = 0.0
        self._longest_s = 0.0
        self._began_at: float | None = None

    def select(self, timeout: float | None = None) -> Any:
        """End the current turn, wait for events, and start the next turn."""
        asked_at = time.monotonic()
        if self._began_at is not None:
            self._note(asked_at - self._began_at)
        self._began_at = None
        try:
            return super().select(timeout)
        finally:
            self.turns += 1
            self._began_at = time.monotonic()
            if timeout is not None:
                self._note(self._began_at - asked_at - max(0.0, timeout))

    @property
    def turn_s(self) -> float:
        """Duration of the current turn, 0 while the loop waits; can be read from any thread."""
        began_at = self._began_at
        return 0.0 if began_at is None else time.monotonic() - began_at

    def take_longest_s(self) -> float:
        """Return the longest turn since the last call; call it from one thread only."""
        longest_s, self._longest_s = max(self._longest_s, self.turn_s), 0.0
        return longest_s

    def _note(self, took_s: float) -> None:
        self._longest_s = max(self._longest_s, took_s)
        if took_s > STALL_S:
            self.stalled_s += took_s


class CountedLoop(asyncio.SelectorEventLoop):
    """An event loop that counts its ``turns``.

    Attributes:
        context: An empty context for callbacks outside runs; else each would copy the current one.
    """

    def __init__(self) -> None:
        self.turns, self.context = TurnCounter(), contextvars.Context()
        super().__init__(self.turns)

    def bring_forward(self, number: int) -> None:
        """Call the last ``number`` ready callbacks next; called on the loop's thread."""
        self._ready.rotate(number)  # type: ignore[attr-defined]  # private to asyncio's loop


def begun(coroutine: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """Create a task that takes its first step before everything that is ready.

    Otherwise a run that starts while a thousand others end would begin to wait for its model only
    after these ends.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(coroutine, name=name)
    if isinstance(loop, CountedLoop):
        loop.bring_forward(1)
    return task


def _stalled_s() -> float:
    loop = asyncio.get_running_loop()
    return loop.turns.stalled_s if isinstance(loop, CountedLoop) else 0.0


async def done_within(run: asyncio.Future[Any], limit_s: float) -> bool:
    """Return whether ``run`` ends within the limit.

    Time during which the loop was stalled is added to the limit, but at most the limit once more,
    since the run can have caused the stall itself. Time counted by the run's ``HeldTime`` is added
    in full.
    """
    before_s, ends_at = _stalled_s(), asyncio.get_running_loop().time() + limit_s
    if not run.done():  # Many a run ends in its first step: a timer would take longer than that.
        await asyncio.sleep(0)
    if not run.done():  # Checked here too: each waiting run would keep the frame of ``_ended``.
        with _Waiting(run, ends_at - asyncio.get_running_loop().time()) as ended:
            await ended
    if not run.done() and (held := held_time()) is not None:
        await _after_holding(run, held)
    held_up_s = min(limit_s, _stalled_s() - before_s)
    if not run.done() and held_up_s > 0:
        await _ended(run, held_up_s)
    return run.done()


async def _after_holding(run: asyncio.Future[Any], held: HeldTime) -> None:
    """Extend the wait by the held time, as it grows."""
    given_s = 0.0
    while not run.done() and (held.is_held or held.seconds > given_s):
        back_s = max(held.seconds - given_s, _LOOK_S if held.is_held else 0.0)
        given_s += back_s
        await _ended(run, back_s)


async def _ended(run: asyncio.Future[Any], limit_s: float) -> None:
    """Wait for one future, like ``asyncio.wait``."""
    if not run.done():
        with _Waiting(run, limit_s) as ended:
            await ended


class _Waiting:
    """A future that is done when ``run`` ends or at the limit; cheap, since thousands wait."""

    __slots__ = ("_ended", "_run", "_timer")

    def __init__(self, run: asyncio.Future[Any], limit_s: float) -> None:
        loop = asyncio.get_running_loop()
        context = loop.context if isinstance(loop, CountedLoop) else None
        self._run, self._ended, release = run, loop.create_future(), self._release
        self._timer = loop.call_later(limit_s, release, context=context)
        run.add_done_callback(release, context=context)

    def __enter__(self) -> asyncio.Future[None]:
        return self._ended

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._run.remove_done_callback(self._release)

    def _release(self, *_: object) -> None:
        if not self._ended.done():
            self._ended.set_result(None)


async def within(coroutine: Coroutine[Any, Any, T], limit_s: float) -> T:
    """Return the coroutine's result if it ends in time, see ``done_within``.

    Raises:
        TimeoutError: It did not end in time and was cancelled.
        BaseException: Whatever the coroutine raises.
    """
    run = asyncio.ensure_future(coroutine)
    try:
        if await done_within(run, limit_s):
            return run.result()
        raise TimeoutError
    finally:
        if not run.done():
            run.cancel()
            await asyncio.wait({run})
