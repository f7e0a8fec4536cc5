"""EnvServer: serves a collection as an environment for prime-rl."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import signal
import threading
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING, Any, Self

from agentpipe.brokers import open_store
from agentpipe.connections.listening import cannot_listen
from agentpipe.connections.url import host_in_url
from agentpipe.core.run_names import prefix_of
from agentpipe.errors import FormatError, TaskError
from agentpipe.primerl.env_results import LOOK_S, EnvResults
from agentpipe.primerl.episodes import REPLY, answer_of, refusal
from agentpipe.primerl.packing import packed, require_msgpack, unpacked
from agentpipe.primerl.requests import CANCEL, HEALTH, RUN, RunRequest
from agentpipe.primerl.router import Router
from agentpipe.primerl.sender import Sender
from agentpipe.primerl.trained_policy import TrainedPolicy
from agentpipe.primerl.unclaimed import EnvAnswer, Unclaimed
from agentpipe.sending.admission import admit
from agentpipe.sending.dispatcher import Dispatcher
from agentpipe.settings import Settings
from agentpipe.sinks.stream import Stream
from agentpipe.training.loop_lease import LoopLease
from agentpipe.training.loop_run import followed_collection, refuse_name
from agentpipe.training.policy import Policy

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from agentpipe.brokers.base import Store
    from agentpipe.config.collection import Collection
    from agentpipe.core.result import Result
    from agentpipe.primerl.router import Client

PARTS = 3
# A client's request id, which becomes part of the task id.
_REQUEST = re.compile(rb"[A-Za-z0-9._-]{1,100}")

log = logging.getLogger(__name__)


class EnvServer:
    """Answers prime-rl's environment client over ZeroMQ; close it, or use ``with``.

    Each request becomes a task whose id combines this environment's name and the request's id.
    Sent tasks continue if this process dies. A server started again under the same name answers
    the requests sent to the previous one: clients reconnect by themselves.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        lease: LoopLease,
        policy: Policy,
        store: Store,
        stream: Stream,
        *,
        only: Collection,
        name: str,
    ) -> None:
        """Use these connections, which ``close`` closes; the stream must wait ``LOOK_S``."""
        self._owned = (stream, store, policy, lease, dispatcher)
        self._name, self._prefix, self._rules = name, prefix_of(name), only.task_rules
        model = only.policy.model if only.policy else ""
        stream.keep = math.inf
        followed = TrainedPolicy(policy, model)
        self._sender = Sender(dispatcher, store, followed, only.name, self._refused)
        self._results = EnvResults(stream, self._prefix, self._came, lease.refuse_if_taken)
        self._router = Router(self._take, self._greet)
        self._runs: dict[str, Client] = {}
        self._unclaimed = Unclaimed()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Future[None] | None = None

    @classmethod
    def open(
        cls,
        collection: str | os.PathLike[str],
        *,
        name: str = "",
        settings: Settings | None = None,
    ) -> Self:
        """The environment of ``collection``.

        Args:
            collection: The path of a YAML file with one collection, which follows a policy and
                requires token ids.
            name: Name of this environment: it prefixes the ids of its tasks and names its reading
                group. Default: the collection's name.
            settings: Where broker and sink are; default: from the environment.

        Raises:
            ConfigError: The collection follows no policy or requires no ids, or the name is
                invalid.
            LoopTaken: Another live server has this name.
            MissingExtra: The extra ``prime-rl`` is not installed.
            Unreachable: Broker or sink does not answer.
        """
        require_msgpack()
        settings = Settings.given(settings)
        only = followed_collection(collection, settings)
        assert only.policy is not None  # ``followed_collection`` requires one.
        name = name or only.name
        refuse_name(name)
        with ExitStack() as opened:
            dispatcher = opened.enter_context(Dispatcher.open([only], settings, results=False))
            lease = opened.enter_context(closing(LoopLease.open(name, settings)))
            policy = opened.enter_context(Policy.open(only.policy.name, settings))
            store = opened.enter_context(closing(open_store(settings)))
            stream = Stream.open(settings, group=name, timeout_s=LOOK_S)
            opened.pop_all()
        return cls(dispatcher, lease, policy, store, stream, only=only, name=name)

    async def serve(self, host: str, port: int, announce: Callable[[str], None]) -> None:
        """Serve until SIGTERM; ``announce`` receives the address.

        Raises:
            AgentpipeError: The address cannot be bound, or another server has taken the name.
        """
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.create_future()
        self._loop.add_signal_handler(signal.SIGTERM, self._ended, None)
        threads = [
            threading.Thread(target=self._guarded, args=(run,), name=f"env-{name}", daemon=True)
            for name, run in (("sender", self._sender.run), ("results", self._results.run))
        ]
        try:
            listening = await self._router.listen(host, port)
            for thread in threads:
                thread.start()
            announce(f"tcp://{host_in_url(host)}:{listening}")
            await self._end
        except OSError as error:
            raise cannot_listen(host, port, error) from error
        finally:
            self._router.close()
            self._sender.stop()
            self._results.stop()
            for thread in filter(threading.Thread.is_alive, threads):
                thread.join(2 * LOOK_S)

    def _guarded(self, run: Callable[[], None]) -> None:
        """Run a thread's target; an error ends the server, which would otherwise hang silently."""
        try:
            run()
        except BaseException as error:  # noqa: BLE001 - ``serve`` raises it
            self._call(self._ended, error)

    def _ended(self, error: BaseException | None) -> None:
        if self._end is None or self._end.done():
            return
        if error is None:
            self._end.set_result(None)
        else:
            self._end.set_exception(error)

    def _call(self, function: Callable[..., None], *args: Any) -> None:
        """Call the function in the event loop; for use from other threads."""
        assert self._loop is not None
        with suppress(RuntimeError):  # The loop has ended meanwhile.
            self._loop.call_soon_threadsafe(function, *args)

    # Requests.

    def _take(self, client: Client, parts: Sequence[bytes]) -> None:
        if len(parts) != PARTS:
            log.warning("a message of %d parts, and not of %d, is passed over", len(parts), PARTS)
            return
        request_id, method, payload = parts
        try:
            reply = self._answer(client, request_id, method.decode("ascii", "replace"), payload)
        except TaskError as error:
            reply = refusal(f"{type(error).__name__}: {error}")
        if reply is not None:
            client.send(request_id, REPLY, packed(reply))

    def _answer(
        self, client: Client, request_id: bytes, method: str, payload: bytes
    ) -> dict[str, Any] | None:
        """The immediate reply; None if the answer comes later."""
        raw = unpacked(payload)
        if method == HEALTH:
            return {"success": True, "error": None}
        if method == CANCEL:
            return self._cancel(raw)
        if method != RUN:
            return refusal(f"unknown method {method!r:.80}")
        return self._run(client, request_id, raw)

    def _run(self, client: Client, request_id: bytes, raw: Any) -> dict[str, Any] | None:
        request = RunRequest.of(raw, self._prefix, _name(request_id))
        task = admit(request.task, self._rules)
        if request.task_id in self._runs:
            return refusal("a request of this id is being run")
        self._runs[request.task_id] = client
        self._sender.send(request, task)
        return None

    def _cancel(self, raw: Any) -> dict[str, Any]:
        target = raw.get("request_id") if isinstance(raw, dict) else None
        if not isinstance(target, str):
            raise TaskError("request_id: expected a string")
        task_id = f"{self._prefix}{_name(target.encode())}"
        self._sender.cancel(task_id)  # A previous server may have sent the task.
        return {"success": True, "error": None, "cancelled": task_id in self._runs}

    # Answers.

    def _refused(self, task_id: str, why: str) -> None:
        """Answer a task that was not sent; called in the sender's thread."""
        message = self._request_id(task_id), REPLY, packed(refusal(why))
        self._call(self._send, EnvAnswer(task_id, [message]))

    def _came(self, result: Result) -> None:
        """Answer with a Result; called in the reader's thread."""
        try:
            answers = answer_of(result, self._name)
        except FormatError as error:
            answers = [(REPLY, refusal(f"{type(error).__name__}: {error}"))]
        request_id = self._request_id(result.task_id)
        messages = [(request_id, kind, packed(payload)) for kind, payload in answers]
        self._call(self._send, EnvAnswer(result.task_id, messages))

    def _request_id(self, task_id: str) -> bytes:
        return task_id.removeprefix(self._prefix).encode()

    def _send(self, answer: EnvAnswer) -> None:
        """Send to the client that asked, or to all if it is gone: each knows its own requests."""
        client = self._runs.pop(answer.task_id, None)
        if client is not None and client.is_connected:
            self._send_to(client, answer)
            return
        self._unclaimed.add(answer)
        for each in self._router.clients:
            self._send_to(each, answer)

    def _send_to(self, client: Client, answer: EnvAnswer) -> None:
        for message in answer.messages:
            client.send(*message)
        self._results.answered(answer.task_id)

    def _greet(self, client: Client) -> None:
        for answer in self._unclaimed:
            self._send_to(client, answer)

    def close(self) -> None:
        """Close its connections; sent tasks continue, and a later server answers them."""
        with ExitStack() as closing_all:
            for each in reversed(self._owned):
                closing_all.callback(each.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _name(request_id: bytes) -> str:
    """Check a client's request id for use in a task id.

    Raises:
        TaskError: It has other characters, or a wrong length.
    """
    if not _REQUEST.fullmatch(request_id):
        raise TaskError("the id of a request has 1 to 100 of A-Z a-z 0-9 . _ -")
    return request_id.decode()
