"""Relay: forwards a run's requests to one server, asks for token ids, and records the answers."""

from __future__ import annotations

from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx2

from agentpipe.core import trace
from agentpipe.core.caps import CapExceeded
from agentpipe.core.outside import encoded
from agentpipe.core.redaction import Redactor
from agentpipe.core.rollout import IDS_REFUSED, NO_TOKEN_IDS
from agentpipe.engines.gateway.asked_messages import AskedMessages
from agentpipe.engines.gateway.error_bodies import error_body
from agentpipe.engines.gateway.model_server import ModelServer
from agentpipe.engines.gateway.replies import (
    EVENTS,
    JSON,
    as_asked,
    as_stream,
    passed,
    refuse,
    refuse_paused,
)
from agentpipe.engines.http.bodies import chunks, whole
from agentpipe.engines.http.sse import events
from agentpipe.engines.models.reading import UnreadableResponse, parsed
from agentpipe.engines.models.recording import (
    refuses_ids,
    response_record,
    turn_of,
    usage_of,
    without_ids,
)
from agentpipe.engines.models.sampled_ids import ASKED
from agentpipe.engines.models.service_errors import (
    CLIENT_ERROR,
    ServiceError,
    error_of,
    error_within_answer,
    failure_of,
)
from agentpipe.engines.models.token_mode import root_of, token_mode
from agentpipe.engines.policies import Route, StillPaused, paused_for_long
from agentpipe.errors import AgentFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from contextlib import AbstractContextManager

    from agentpipe.core.rollout import Rollout
    from agentpipe.core.task import Task
    from agentpipe.core.token_rows import Turn
    from agentpipe.engines.gateway.http_server import Reply, Request
    from agentpipe.engines.gateway.upstreams import Upstream
    from agentpipe.engines.http.sse import Event
    from agentpipe.engines.models.protocols import JoinedStream
    from agentpipe.engines.policies import RunPolicy

_FAULTS = (UnreadableResponse, CapExceeded, ServiceError, httpx2.HTTPError)
_OWN = Route(None, "")
_CONTENT = ("messages", "tools", "system", "stream", "stream_options")


@dataclass(frozen=True, slots=True)
class KeptReply:
    """What a client received, kept for a repeated request."""

    headers: Mapping[str, str]
    body: bytes

    async def send(self, reply: Reply) -> None:
        """Send it again."""
        await reply.whole(200, self.headers, self.body)


@dataclass(frozen=True, slots=True)
class _Exchange:
    """A client's request in progress.

    Attributes:
        asked: The body that the client sent.
        sent: The body for the server.
        step: The data that its span records.
        route: The server and policy version to use.
    """

    asked: Mapping[str, Any]
    sent: Mapping[str, Any]
    reply: Reply
    step: dict[str, Any]
    route: Route

    @property
    def model(self) -> str:
        """The model in the request."""
        return str(self.sent.get("model"))


class Relay:
    """Connects one run to one model server.

    Attributes:
        failure: Why the last request failed; None if it did not fail.
    """

    def __init__(
        self,
        upstream: Upstream,
        client: httpx2.AsyncClient,
        task: Task,
        rollout: Rollout,
        *,
        traced: bool,
        policy: RunPolicy | None = None,
    ) -> None:
        self.failure: AgentFailed | None = None
        self._policy = policy
        self._name = upstream.provider.name
        self._upstream, self._rollout = upstream, rollout
        self._server = ModelServer(upstream, client)
        self._traced = traced
        provider = upstream.provider
        own = {} if task.seed is None else {"seed": task.seed}
        settings = provider.sent({**task.sampling, **own})
        self._settings = {provider.renamed.get(n, n): value for n, value in settings.items()}
        self._masked = Redactor([upstream.key]).text
        self._key = upstream.key.encode()
        self._gives_ids, self._gap = provider.protocol == "openai", NO_TOKEN_IDS
        self._asked = AskedMessages()

    async def answer(self, asked: Mapping[str, Any], path: str, reply: Reply) -> KeptReply | None:
        """Forward a request; return what the client received if it was an answer of the model."""
        try:
            async with self._routed() as route:
                return await self._answer(asked, path, reply, route)
        except StillPaused:
            self.failure = paused_for_long()
            await refuse_paused(reply)
            return None

    @asynccontextmanager
    async def _routed(self) -> AsyncIterator[Route]:
        if self._policy is None:
            yield _OWN
            return
        async with self._policy.request() as route:
            yield route

    async def _answer(
        self, asked: Mapping[str, Any], path: str, reply: Reply, route: Route
    ) -> KeptReply | None:
        sent = {**asked, **self._settings, **({"model": route.model} if route.model else {})}
        config = {name: value for name, value in sent.items() if name not in _CONTENT}
        record = {"type": "llm", "class": self._name, "config": config}
        with self._step({**record, "messages": self._asked.new_in(sent)}) as step:
            if route.version is not None:
                step["policy_version"] = route.version
            answer = await self._passed_on(_Exchange(asked, sent, reply, step, route), path)
            if self.failure is not None:
                step["error"] = f"{self.failure.kind}: {self.failure}"
        return answer

    def _step(self, record: dict[str, Any]) -> AbstractContextManager[dict[str, Any]]:
        return trace.step(record) if self._traced else nullcontext(record)

    async def pass_on(self, request: Request, path: str, reply: Reply) -> None:
        """Forward a request that is not recorded."""
        try:
            async with self._routed() as route:
                response = await self._sent(request.method, path, request.body, route)
                try:
                    content = await whole(response)
                finally:
                    await response.aclose()
        except StillPaused:
            await refuse_paused(reply)
        except AgentFailed as failed:
            await refuse(reply, 502, str(failed))
        except _FAULTS as error:
            await refuse(reply, 502, str(failure_of(error, self._masked)))
        else:
            await reply.whole(response.status_code, passed(response.headers), self._shown(content))

    async def _passed_on(self, exchange: _Exchange, path: str) -> KeptReply | None:
        response, self.failure = None, None
        try:
            if (completion := await self._by_tokens(exchange)) is not None:
                return await self._given(completion, exchange)
            response = await self._response(exchange, path)
            if response.status_code >= CLIENT_ERROR:
                await self._relay_error(response, exchange.reply)
                return None
            if "event-stream" in response.headers.get("content-type", ""):
                return await self._streamed(response, exchange)
            return await self._at_once(response, exchange)
        except AgentFailed as error:  # A redirect elsewhere, or an invalid key.
            self.failure = error
            await refuse(exchange.reply, 502, str(error))
            return None
        except _FAULTS as error:
            await self._fail(error, exchange.reply)
            return None
        finally:
            if response is not None:
                await response.aclose()

    async def _by_tokens(self, exchange: _Exchange) -> Any:
        """The completion, if the run asks its model by token ids and the server can; else None."""
        mode = token_mode() if self._gives_ids else None
        if mode is None:
            return None
        root = root_of(self._upstream.url("", exchange.route.base_url))

        async def post(path: str, body: Mapping[str, Any]) -> Any:
            response = await self._server.sent(root + path, encoded(body))
            try:
                content = await whole(response)
            finally:
                await response.aclose()
            if response.status_code >= CLIENT_ERROR:
                raise error_of(response, content)
            return parsed(content)

        return await mode.completion(exchange.sent, post, root)

    async def _given(self, completion: Any, exchange: _Exchange) -> KeptReply:
        self._record(completion, exchange)
        shown = as_asked(completion, exchange.asked)
        if exchange.asked.get("stream"):
            given = KeptReply(EVENTS, self._shown(as_stream(shown)))
        else:
            given = KeptReply(JSON, self._shown(encoded(shown)))
        await given.send(exchange.reply)
        return given

    async def _response(self, exchange: _Exchange, path: str) -> httpx2.Response:
        """Ask for token ids; ask again without them if the server rejects that."""
        sent, route = exchange.sent, exchange.route
        if not self._gives_ids:
            return await self._post(sent, path, route)
        response = await self._post({**sent, **ASKED}, path, route)
        if response.status_code < CLIENT_ERROR or self._rollout.required:
            return response
        content = await whole(response)
        if not refuses_ids(content.decode(errors="replace")):
            return httpx2.Response(response.status_code, headers=response.headers, content=content)
        self._gives_ids, self._gap = False, IDS_REFUSED
        return await self._post(sent, path, route)

    async def _post(self, body: Mapping[str, Any], path: str, route: Route) -> httpx2.Response:
        return await self._sent("POST", path, encoded(body), route)

    async def _sent(self, method: str, path: str, content: bytes, route: Route) -> httpx2.Response:
        url = self._upstream.url(path, route.base_url)
        return await self._server.sent(url, content, method)

    def _shown(self, content: bytes) -> bytes:
        """Mask the real key, which a server may echo."""
        if self._key not in content:
            return content
        return self._masked(content.decode(errors="replace")).encode()

    async def _fail(self, error: Exception, reply: Reply) -> None:
        failed = self._noted(error)
        if reply.has_begun:  # An abrupt end is the only way left to report an error.
            raise ConnectionResetError(str(failed))
        if isinstance(error, ServiceError) and not error.within:
            shown = JSON | passed(error.headers)
            await reply.whole(error.status_code or 502, shown, error_body(str(failed)))
        else:
            await refuse(reply, 502, str(failed))

    def _noted(self, error: Exception) -> Exception:
        failed = failure_of(error, self._masked)
        self.failure = failed if isinstance(failed, AgentFailed) else None
        if self.failure and self._rollout.required and refuses_ids(str(failed)):
            self.failure = without_ids(self.failure)
        return failed

    async def _relay_error(self, response: httpx2.Response, reply: Reply) -> None:
        content = await whole(response)
        self._noted(error_of(response, content))
        await reply.whole(response.status_code, passed(response.headers), self._shown(content))

    async def _at_once(self, response: httpx2.Response, exchange: _Exchange) -> KeptReply:
        answer = parsed(await whole(response))
        self._refuse_error(answer, response)
        self._record(answer, exchange)
        given = KeptReply(JSON, self._shown(encoded(as_asked(answer, exchange.asked))))
        await given.send(exchange.reply)
        return given

    async def _streamed(self, response: httpx2.Response, exchange: _Exchange) -> KeptReply:
        """Forward events as they arrive; record once all are there, otherwise record a gap."""
        joined, body = self._upstream.protocol.Joined(), bytearray()
        headers = passed(response.headers)
        try:
            await exchange.reply.begin(200, headers)
            async for event in events(chunks(response)):
                body += (part := self._part(event, joined, exchange.asked, response))
                await exchange.reply.send(part)
            answer = joined.whole()
        except BaseException:
            self._add(None, exchange.model, exchange.route)
            raise
        self._record(answer, exchange)
        await exchange.reply.end()
        return KeptReply(headers, bytes(body))

    def _part(
        self,
        event: Event,
        joined: JoinedStream,
        asked: Mapping[str, Any],
        response: httpx2.Response,
    ) -> bytes:
        """Add an event to the joined answer, and return its bytes for the client."""
        data = event.data
        if data.decode(errors="replace") != self._upstream.protocol.END:
            part = parsed(data)
            self._refuse_error(part, response)
            joined.add(part)
            data = self._shown(encoded(as_asked(part, asked)))
        named = b"event: %b\n" % event.name.encode() if event.name else b""
        return b"%bdata: %b\n\n" % (named, data)

    def _refuse_error(self, answer: Any, response: httpx2.Response) -> None:
        if error := self._upstream.protocol.error_in(answer):
            raise error_within_answer(error, response)

    def _record(self, answer: Any, exchange: _Exchange) -> None:
        response = self._upstream.protocol.read(answer)
        usage = usage_of(response, self._name, exchange.model)
        exchange.step.update(response_record(response, usage))
        if self._traced:
            trace.record_usage(usage)
        model = response.model or exchange.model
        self._add(turn_of(response, exchange.sent), model, exchange.route)

    def _add(self, turn: Turn | None, model: str, route: Route) -> None:
        self._rollout.add(
            turn, engine=self._name, model=model, gap=self._gap, version=route.version
        )
