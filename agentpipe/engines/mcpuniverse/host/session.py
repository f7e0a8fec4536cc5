"""serve: handles the parent's requests until the parent closes the connection.

The main thread reads. A second thread runs the agent's event loop, in one asyncio task, since MCP
clients must be closed by the task that opened them. A run that ignores its cancellation (a call
that never returns) is abandoned together with its thread; its cleanups run in a third thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

from .agent import AgentFactory, HostedAgent
from .channel import ParentChannel
from .failure import CancelledRunError, error_record, set_up_failed
from .run import TaskRun, settled
from .threads import Connections, end_children

if TYPE_CHECKING:
    import socket

# Time for a cancelled run to end before it is abandoned.
GRACE_S = 5.0
END_LIMIT_S = 15.0


def serve(sock: socket.socket) -> None:
    """Serve one agent over a connected stream socket, until the other end closes.

    Abandoned threads can still be running afterwards, so end the process with ``os._exit``.
    """
    channel = ParentChannel(sock)
    session = _HostSession(channel)
    for request in channel.requests():
        session.handle(request)
    session.close()


class _HostSession:
    def __init__(self, channel: ParentChannel) -> None:
        self._channel = channel
        self._connections = Connections()
        self._factory: AgentFactory | None = None
        self._agent_loop: _AgentLoop | None = None
        self._run: TaskRun | None = None

    def handle(self, request: dict[str, Any]) -> None:
        if "open" in request:
            self._open(request["open"])
        elif "task" in request:
            self._start(request["task"])
        elif request.get("cancel"):
            self._cancel()

    def close(self) -> None:
        if self._run is not None and not self._run.ended.is_set():
            self._cancel()
            self._run.ended.wait(END_LIMIT_S)
        if self._agent_loop is not None:  # None after an abandoned run.
            self._agent_loop.close()
        end_children()

    def _open(self, request: dict[str, Any]) -> None:
        try:
            self._factory = AgentFactory(request)
            self._agent_loop = _AgentLoop(self._factory, self._factory.build())
        except BaseException as error:  # noqa: BLE001 - constructors of other packages
            self._channel.send({"error": set_up_failed(error)})
        else:
            self._channel.send({"ready": True})

    def _start(self, task: dict[str, Any]) -> None:
        if self._factory is None:
            error = RuntimeError("no agent is open")
            self._channel.send({"error": error_record(error)})
            return
        if self._agent_loop is None:
            self._agent_loop = _AgentLoop(self._factory, None)
        factory = self._factory
        self._run = TaskRun(task, factory.context, self._channel, factory.judges_env)
        self._agent_loop.begin(self._run)

    def _cancel(self) -> None:
        run, agent_loop = self._run, self._agent_loop
        if run is None or agent_loop is None or run.ended.is_set():
            return
        run.cancelled = True
        run.monitor.stop.set()
        self._connections.cut()
        agent_loop.interrupt(run)
        threading.Thread(target=self._abandon_late, args=(run,), daemon=True).start()

    def _abandon_late(self, run: TaskRun) -> None:
        """Abandon a run that does not end within ``GRACE_S``."""
        if run.ended.wait(GRACE_S) or not run.claim():
            return
        self._agent_loop = None
        end_children()
        error = error_record(CancelledRunError("the run was cancelled and abandoned"))
        asyncio.run(run.end({"error": {**error, "stuck": True}}))


class _AgentLoop:
    """The thread, event loop and asyncio task of one agent, which is rebuilt after each failure."""

    def __init__(self, factory: AgentFactory, agent: HostedAgent | None) -> None:
        self._factory, self._agent = factory, agent
        self._loop = asyncio.new_event_loop()
        self._runs: asyncio.Queue[TaskRun | None] = asyncio.Queue()
        self._life = self._loop.create_task(self._live())
        self._thread = threading.Thread(target=self._turn, daemon=True, name="agent")
        self._thread.start()

    def begin(self, run: TaskRun) -> None:
        self._loop.call_soon_threadsafe(self._runs.put_nowait, run)

    def interrupt(self, run: TaskRun) -> None:
        self._loop.call_soon_threadsafe(self._interrupt, run)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._runs.put_nowait, None)
        self._thread.join(END_LIMIT_S)

    def _interrupt(self, run: TaskRun) -> None:
        if run.interruptible:
            self._life.cancel()

    def _turn(self) -> None:
        asyncio.set_event_loop(self._loop)
        while not self._life.done():
            # SystemExit in one of the agent's asyncio tasks stops the loop; our task continues.
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

    async def _serve(self, run: TaskRun) -> None:
        reply = await settled(run, self._start)
        if run.claim():
            run.monitor.end()
            if "error" in reply:
                await self._drop()
            await self._end(run, reply)

    async def _end(self, run: TaskRun, reply: dict[str, Any]) -> None:
        ending = asyncio.ensure_future(run.end(reply))
        while not ending.done():
            try:
                await asyncio.wait({ending})
            except asyncio.CancelledError:  # By anyio, as in ``_live``; the cleanups continue.
                await self._drop()

    async def _start(self, servers: Any) -> HostedAgent:
        """Return the agent for the next task, with its servers running."""
        agent = self._agent
        if agent is not None and agent.started and not await agent.fits(servers):
            await self._drop()
        if self._agent is None:
            self._agent = self._factory.build()
        if not self._agent.started:
            await self._agent.start(servers)
        return self._agent

    async def _drop(self) -> None:
        agent, self._agent = self._agent, None
        if agent is not None:
            await agent.close()
