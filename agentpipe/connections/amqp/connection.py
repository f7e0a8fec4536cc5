"""Link: one AMQP connection with its own event loop and thread."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import threading
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import pika
from pika import exceptions

from agentpipe.connections.amqp.callbacks import resolver
from agentpipe.connections.amqp.channel import (
    ACCESS_REFUSED,
    NOT_FOUND,
    PRECONDITION_FAILED,
    TOO_LARGE,
    Channel,
    ChannelClosed,
    closed_errors,
)
from agentpipe.connections.amqp.quick_connection import QuickConnection
from agentpipe.errors import AgentpipeError, StoreError, Unreachable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine


T = TypeVar("T")

CONNECT_S = 10.0
# Time to wait for an answer before the server counts as unreachable, also if it has blocked us.
ANSWER_S = 20.0
FAREWELL_S = 2.0


class Session:
    """One open connection, until it is lost.

    Attributes:
        blocked: Why the server accepts no messages from us at present, or an empty string.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.blocked = ""
        self._ended = asyncio.Event()
        self._opening: set[asyncio.Future[Any]] = set()
        connection.add_on_close_callback(self._on_closed)
        connection.add_on_connection_blocked_callback(self._on_blocked)
        connection.add_on_connection_unblocked_callback(self._on_unblocked)

    @property
    def is_open(self) -> bool:
        """Whether the connection is open."""
        return bool(self._connection.is_open)

    @property
    def server_version(self) -> str:
        """The version that the server reports on connect."""
        told = getattr(self._connection, "server_properties", None) or {}
        return str(told.get("version", "of no version"))

    async def channel(self, on_closed: Callable[[], None] = lambda: None) -> Channel:
        """Open a channel with publisher confirms."""
        opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        with closed_errors():
            raw = self._connection.channel(on_open_callback=resolver(opened))
        self._opening.add(opened)
        opened.add_done_callback(self._opening.discard)
        try:
            channel = Channel(await opened, on_closed)
            await channel.confirm()
        except BaseException:  # A server that has blocked us could open it later.
            if not (raw.is_closing or raw.is_closed):
                raw.close()
            raise
        return channel

    def close(self) -> None:
        """Close the connection."""
        if self.is_open:
            self._connection.close()

    async def ended(self) -> None:
        """Wait until the connection has closed."""
        await self._ended.wait()

    def _on_closed(self, _connection: Any, reason: Any) -> None:
        self._ended.set()
        for opened in list(self._opening):
            if not opened.done():
                opened.set_exception(ChannelClosed(repr(reason)))

    def _on_blocked(self, _connection: Any, frame: Any) -> None:
        self.blocked = frame.method.reason or "no reason given"

    def _on_unblocked(self, _connection: Any, _frame: Any) -> None:
        self.blocked = ""


class Link:
    """The connection of one process, opened on demand and reopened after a loss.

    Operations are coroutines that take a ``Session``; they run on the link's own thread.
    """

    def __init__(self, parameters: pika.ConnectionParameters, shown_url: str, own: str) -> None:
        """Create an unconnected link; ``own`` is the URL parameter that sets own queue names."""
        self._parameters, self._shown, self._own = parameters, shown_url, own
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._closed = False
        self._session: Session | None = None

    def run(
        self, operation: Callable[[Session], Coroutine[Any, Any, T]], answer_s: float = ANSWER_S
    ) -> T:
        """Run the operation and return its result; callable from any other thread.

        Raises:
            Unreachable: There is no connection, or it was lost during the operation.
            StoreError: The server refused the operation and closed the channel.
        """
        answer: Future[T] = Future()
        self.soon(partial(self.begin, operation, answer_s, answer))
        try:
            return answer.result()
        except ChannelClosed as error:
            raise error_of_channel(error, self._shown, self._own) from error

    def begin(
        self,
        operation: Callable[[Session], Coroutine[Any, Any, T]],
        answer_s: float,
        answer: Future[T],
    ) -> None:
        """Start the operation on the link's thread: ``run_coroutine_threadsafe`` in fewer steps."""
        task = asyncio.get_running_loop().create_task(self._perform(operation, answer_s))
        task.add_done_callback(partial(_tell, answer))

    def ask(self, question: Callable[[Session], T]) -> T | None:
        """Call a function on the link's thread; returns None without a connection."""
        answer: Future[T | None] = Future()

        def tell() -> None:
            try:
                session = self._session
                is_open = session is not None and session.is_open
                answer.set_result(question(session) if session and is_open else None)
            except BaseException as error:  # noqa: BLE001 - the caller raises it
                answer.set_exception(error)

        self.soon(tell)
        return answer.result()

    def soon(self, call: Callable[[], None]) -> None:
        """Schedule a call on the link's thread. The lock keeps ``close`` from stopping it first."""
        with self._starting:
            self._running_loop().call_soon_threadsafe(call)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._closed:
            raise Unreachable(f"{self._shown}: this connection was closed")
        if self._loop is None or self._pid != os.getpid():
            self._pid, self._loop, self._session = os.getpid(), asyncio.new_event_loop(), None
            self._connecting = asyncio.Lock()
            self._thread = threading.Thread(
                target=self._loop.run_forever, name="agentpipe-rabbitmq", daemon=True
            )
            self._thread.start()
        return self._loop

    async def _perform(
        self, operation: Callable[[Session], Coroutine[Any, Any, T]], answer_s: float
    ) -> T:
        session = await self._connected()
        try:
            async with asyncio.timeout(answer_s):
                return await operation(session)
        except TimeoutError as error:
            if session.blocked:
                raise Unreachable(
                    f"{self._shown}: the server takes nothing at present: {session.blocked}. "
                    "Free its memory or disk."
                ) from error
            session.close()
            raise Unreachable(f"{self._shown}: no answer within {answer_s:g} s") from error

    async def _connected(self) -> Session:
        if (known := self._session) is not None and known.is_open:
            return known
        async with self._connecting:
            if self._session is None or not self._session.is_open:
                self._session = await self._connect()
            return self._session

    async def _connect(self) -> Session:
        logging.getLogger("pika").setLevel(logging.CRITICAL)  # We log it, in one line.
        opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def failed(_connection: Any, error: Exception | str) -> None:
            if not opened.done():
                opened.set_exception(
                    error if isinstance(error, Exception) else ChannelClosed(error)
                )

        connection = QuickConnection(
            self._parameters,
            on_open_callback=resolver(opened),
            on_open_error_callback=failed,
            custom_ioloop=asyncio.get_running_loop(),
        )
        try:
            return Session(await asyncio.wait_for(opened, CONNECT_S))
        except BaseException as error:
            if not (connection.is_closing or connection.is_closed):  # Else it could open later.
                connection.close()
            if not isinstance(error, Exception):
                raise
            raise Unreachable(f"{self._shown}: {why_not(error)}") from error

    def close(self, before: Callable[[], Awaitable[None]]) -> None:
        """Run ``before``, then close the connection; the server requeues what is unacknowledged."""
        with self._starting:
            self._closed = True
            loop, thread, self._loop = self._loop, self._thread, None
        if loop is None or thread is None or self._pid != os.getpid():
            return
        asyncio.run_coroutine_threadsafe(self._end(before), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    async def _end(self, before: Callable[[], Awaitable[None]]) -> None:
        if self._session is not None and self._session.is_open:
            with suppress(ChannelClosed, TimeoutError):
                await asyncio.wait_for(before(), ANSWER_S)
            self._session.close()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._session.ended(), FAREWELL_S)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _tell(answer: Future[T], task: asyncio.Task[T]) -> None:
    if task.cancelled():
        answer.cancel()
    elif error := task.exception():
        answer.set_exception(error)
    else:
        answer.set_result(task.result())


def error_of_channel(error: ChannelClosed, shown: str, own: str) -> AgentpipeError:
    """Convert the end of a channel to our error, by AMQP's code and text.

    Args:
        error: The close reason, with its code.
        shown: The URL without its secrets.
        own: The URL parameter that sets own queue names, as in ``Link``.
    """
    text = str(error)
    if error.code == NOT_FOUND:  # The next connection creates it again.
        return Unreachable(f"{shown}: a queue or exchange was deleted: {text}", answers=True)
    if error.code == ACCESS_REFUSED:
        return StoreError(f"{shown}: the user may not do this ({text}): allow it, or use another")
    if TOO_LARGE in text:
        return StoreError(f"{shown}: a message is too large ({text}): raise max_message_size")
    if error.code == PRECONDITION_FAILED and "inequivalent" in text:
        remedy = f"give a {own} of your own"
        return StoreError(f"{shown}: a queue of that name is of another kind ({text}): {remedy}")
    return Unreachable(f"{shown}: the connection was lost: {text}")


def why_not(error: BaseException) -> str:
    """Why there is no connection and what to do about it, in one line."""
    causes = list(_causes(error))
    for kinds, text in _REASONS:
        for cause in causes:
            if isinstance(cause, kinds):
                return text.format(cause=" ".join(str(cause).split()))
    return f"no connection: {' '.join(str(causes[-1]).split()) or repr(error)}"


_REASONS: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    (
        (exceptions.ProbableAuthenticationError, exceptions.AuthenticationError),
        "the server refuses this user or password: correct them in the URL",
    ),
    (
        (exceptions.ProbableAccessDeniedError,),
        "the server refuses this vhost: create it, allow the user to use it, or correct the URL",
    ),
    (
        (exceptions.ConnectionClosedByBroker,),
        "the server closed the connection: {cause}; is the vhost in the URL the right one?",
    ),
    (
        (ssl.SSLError,),
        "TLS failed ({cause}): use amqp:// for a plain port, or give ?cafile= for your own CA",
    ),
    (
        (exceptions.IncompatibleProtocolError, exceptions.ProtocolSyntaxError),
        "what answers there does not speak AMQP 0.9.1: correct host and port, or try amqps://",
    ),
    ((ConnectionRefusedError,), "nothing listens there: start RabbitMQ, or correct the URL"),
    ((socket.gaierror,), "this host name is not known: correct the URL"),
    (
        (TimeoutError, exceptions.ConnectionOpenAborted),  # pika aborts on its timeout.
        "no AMQP was spoken in time: is the server up, is it a RabbitMQ, does it want amqps://?",
    ),
    (
        (exceptions.StreamLostError, ConnectionError),
        "the connection was dropped at once: is it a RabbitMQ? Does the port want amqps://?",
    ),
)


def _causes(error: BaseException) -> list[BaseException]:
    """The error and all errors that pika wrapped in it, outermost first."""
    found = [error]
    inside = (*error.args, *getattr(error, "exceptions", ()), getattr(error, "exception", None))
    for inner in inside:
        if isinstance(inner, BaseException):
            found += _causes(inner)
    return found
