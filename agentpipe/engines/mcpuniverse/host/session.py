"""serve: the requests of the parent, until it hangs up.

The main thread reads. A second one has the event loop on which the agent lives, in one
asyncio task, since what MCP clients open must be closed by the task that opened it. A run that
does not heed its cancellation, for it sits in a call that nothing ends, is left behind with its
thread; its cleanups run in a third.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

from .agent import Agent, Blueprint
from .channel import Channel
from .failure import CancelledRunError, error_record
from .run import Run, settled
from .threads import Connections, end_children

if TYPE_CHECKING:
    import socket

# How long a run that was told to end may go on before it is left behind.
GRACE_S = 5.0
END_LIMIT_S = 15.0


def serve(sock: socket.socket) -> None:
    """Serve one agent over a connected stream socket, until the other end is closed.

    Threads that an agent left behind may live on: the process should end with ``os._exit``.
    """
    channel = Channel(sock)
    session = _Session(channel)
    for request in channel.requests():
        session.handle(request)
    session.close()


class _Session:
    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._connections = Connections()
        self._blueprint: Blueprint | None = None
        self._home: _Home | None = None
        self._run: Run | None = None

    def handle(self, request: dict[str, Any]) -> None:
        if "open" in request:
            self._open(request["open"])
        elif "task" in request:
            self._begin(request["task"])
        elif request.get("cancel"):
            self._cancel()

    def close(self) -> None:
        if self._run is not None and not self._run.ended.is_set():
            self._cancel()
            self._run.ended.wait(END_LIMIT_S)
        if self._home is not None:  # None where the run was left behind.
            self._home.close()
        end_children()

    def _open(self, request: dict[str, Any]) -> None:
        try:
            self._blueprint = Blueprint(request)
            self._home = _Home(self._blueprint, self._blueprint.build())
        except BaseException as error:  # noqa: BLE001 - constructors of others
            self._channel.send({"error": error_record(error)})
        else:
            self._channel.send({"ready": True})

    def _begin(self, task: dict[str, Any]) -> None:
        if self._blueprint is None:
            refusal = RuntimeError("no agent has been opened")
            self._channel.send({"error": error_record(refusal)})
            return
        if self._home is None:
            self._home = _Home(self._blueprint, None)
        self._run = Run(task, self._blueprint.context, self._channel)
        self._home.begin(self._run)

    def _cancel(self) -> None:
        run, home = self._run, self._home
        if run is None or home is None or run.ended.is_set():
            return
        run.cancelled = True
        run.watch.stop.set()
        self._connections.cut()
        home.interrupt(run)
        threading.Thread(target=self._see_off, args=(run,), daemon=True).start()

    def _see_off(self, run: Run) -> None:
        """Give a run up that does not end."""
        if run.ended.wait(GRACE_S) or not run.claim():
            return
        self._home = None
        end_children()
        error = error_record(CancelledRunError("the run was cancelled, and left behind"))
        asyncio.run(run.end({"error": {**error, "stuck": True}}))


class _Home:
    """The thread, loop and asyncio task of one agent, which is built anew after each failure."""

    def __init__(self, blueprint: Blueprint, agent: Agent | None) -> None:
        self._blueprint, self._agent = blueprint, agent
        self._loop = asyncio.new_event_loop()
        self._runs: asyncio.Queue[Run | None] = asyncio.Queue()
        self._life = self._loop.create_task(self._live())
        self._thread = threading.Thread(target=self._turn, daemon=True, name="agent")
        self._thread.start()

    def begin(self, run: Run) -> None:
        self._loop.call_soon_threadsafe(self._runs.put_nowait, run)

    def interrupt(self, run: Run) -> None:
        self._loop.call_soon_threadsafe(self._interrupt, run)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._runs.put_nowait, None)
        self._thread.join(END_LIMIT_S)

    def _interrupt(self, run: Run) -> None:
        if run.interruptible:
            self._life.cancel()

    def _turn(self) -> None:
        asyncio.set_event_loop(self._loop)
        while not self._life.done():
            # A task of an agent's that exits ends the loop; the agent's own task goes on.
            with contextlib.suppress(BaseException):
                self._loop.run_until_complete(self._life)

    async def _live(self) -> None:
        while True:
            try:
                run = await self._runs.get()
            except asyncio.CancelledError:  # By anyio: an idle server's connection broke.
                await self._drop()
                continue
            if run is None:
                await self._drop()
                return
            await self._serve(run)

    async def _serve(self, run: Run) -> None:
        reply = await settled(run, self._start)
        if run.claim():
            run.watch.end()
            if "error" in reply:
                await self._drop()
            await self._end(run, reply)

    async def _end(self, run: Run, reply: dict[str, Any]) -> None:
        ending = asyncio.ensure_future(run.end(reply))
        while not ending.done():
            try:
                await asyncio.wait({ending})
            except asyncio.CancelledError:  # By anyio, as above; the cleanups go on.
                await self._drop()

    async def _start(self, servers: Any) -> Agent:
        """The agent for the next task, with its servers running."""
        agent = self._agent
        if agent is not None and agent.started and not await agent.fits(servers):
            await self._drop()
        if self._agent is None:
            self._agent = self._blueprint.build()
        if not self._agent.started:
            await self._agent.start(servers)
        return self._agent

    async def _drop(self) -> None:
        agent, self._agent = self._agent, None
        if agent is not None:
            await agent.close()
