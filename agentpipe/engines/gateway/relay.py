"""Relay: forwards a run's requests to one server, asks for token ids, and records the answers."""

from __future__ import annotations

from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import httpx2

from agentpipe.core import trace
from agentpipe.core.caps import CapExceeded
from agentpipe.core.failures import error_line
from agentpipe.core.outside import encoded
from agentpipe.core.redaction import Redactor, is_secret, passwords_in
from agentpipe.core.rollout import IDS_REFUSED, NO_TOKEN_IDS
from agentpipe.engines.gateway.asked_messages import AskedMessages
from agentpipe.engines.gateway.exchange import Exchange, KeptReply
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
from agentpipe.engines.http.bodies import whole
from agentpipe.engines.models.answers import answer_in, is_stream, parts_of
from agentpipe.engines.models.reading import UnreadableResponse
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
    failure_of,
    incomplete,
)
from agentpipe.engines.models.token_mode import root_of, token_mode
from agentpipe.engines.policies import Route, StillPaused, paused_for_long
from agentpipe.errors import AgentFailed, RunLimitExceeded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from contextlib import AbstractContextManager

    from agentpipe.core.rollout import Rollout
    from agentpipe.core.task import Task
    from agentpipe.core.token_rows import Turn
    from agentpipe.engines.gateway.http_server import Request
    from agentpipe.engines.gateway.model_calls import Failure, ModelCall
    from agentpipe.engines.gateway.upstreams import Upstream
    from agentpipe.engines.http.sse import Event
    from agentpipe.engines.models.conversation import Response
    from agentpipe.engines.policies import RunPolicy

_FAULTS = (UnreadableResponse, CapExceeded, ServiceError, AgentFailed, httpx2.HTTPError)
_OWN = Route(None, "")
# OpenAI's calls before tools are not read here, so they look like lost ones.
CALL_BEFORE_TOOLS = "function_call"
NOT_FOUND = 404
_CONTENT = ("messages", "tools", "system", "stream", "stream_options")


class Relay:
    """Connects one run to one model server."""

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
        self._policy = policy
        self._name = upstream.provider.name
        self._upstream, self._rollout = upstream, rollout
        self._server = ModelServer(upstream, client)
        self._traced = traced
        provider = upstream.provider
        own = {} if task.seed is None else {"seed": task.seed}
        settings = provider.sent({**task.sampling, **own})
        self._settings = {provider.renamed.get(n, n): value for n, value in settings.items()}
        secrets = {upstream.key, *passwords_in(upstream.base_url)}
        self._masked = Redactor(secrets).text
        self._secrets = [each.encode() for each in secrets if is_secret(each)]
        self._gives_ids, self._gap = provider.protocol == "openai", NO_TOKEN_IDS
        self._asked = AskedMessages()

    async def answer(
        self, asked: Mapping[str, Any], path: str, call: ModelCall
    ) -> KeptReply | None:
        """Forward a request; return what the client received if it was an answer of the model."""
        try:
            async with self._routed(call) as route:
                return await self._answer(asked, path, call, route)
        except StillPaused:
            await _refuse_paused(call)
            return None

    @asynccontextmanager
    async def _routed(self, call: ModelCall) -> AsyncIterator[Route]:
        if self._policy is None:
            yield _OWN
            return
        call.is_held = True
        async with self._policy.request() as route:
            call.is_held = False
            call.heard()
            yield route

    async def _answer(
        self, asked: Mapping[str, Any], path: str, call: ModelCall, route: Route
    ) -> KeptReply | None:
        sent = {**asked, **self._settings, **({"model": route.model} if route.model else {})}
        config = {name: value for name, value in sent.items() if name not in _CONTENT}
        record = {"type": "llm", "class": self._name, "config": config}
        with self._step({**record, "messages": self._asked.new_in(sent)}) as step:
            if route.version is not None:
                step["policy_version"] = route.version
            answer = await self._passed_on(Exchange(asked, sent, call, step, route), path)
            if call.failure is not None:
                step["error"] = error_line(call.failure)
        return answer

    def _step(self, record: dict[str, Any]) -> AbstractContextManager[dict[str, Any]]:
        return trace.step(record) if self._traced else nullcontext(record)

    async def pass_on(self, request: Request, path: str, call: ModelCall) -> None:
        """Forward a request that is not recorded."""
        try:
            async with self._routed(call) as route:
                response = await self._sent(request.method, path, request.body, route)
                try:
                    content = await whole(response)
                finally:
                    await response.aclose()
        except StillPaused:
            await _refuse_paused(call)
        except _FAULTS as error:
            await self._fail(error, call)
        else:
            await self._give_unrecorded(response, content, call)

    async def _give_unrecorded(
        self, response: httpx2.Response, content: bytes, call: ModelCall
    ) -> None:
        """Give the server's answer. A 404 is one, too: not every server has each of these paths."""
        failed = response.status_code >= CLIENT_ERROR and response.status_code != NOT_FOUND
        call.end(self._failure_of(error_of(response, content)) if failed else None)
        shown = self._masked_bytes(content) if failed else self._shown(content)
        await call.reply.whole(response.status_code, passed(response.headers), shown)

    async def _passed_on(self, exchange: Exchange, path: str) -> KeptReply | None:
        response, call = None, exchange.call
        try:
            if (completion := await self._by_tokens(exchange)) is not None:
                return await self._given(completion, exchange)
            response = await self._response(exchange, path)
            call.heard()
            if response.status_code >= CLIENT_ERROR:
                await self._relay_error(response, call)
                return None
            if is_stream(response):
                return await self._streamed(response, exchange)
            return await self._at_once(response, exchange)
        except _FAULTS as error:
            await self._fail(error, call)
            return None
        finally:
            if response is not None:
                await response.aclose()

    async def _by_tokens(self, exchange: Exchange) -> Any:
        """The completion, if the run asks its model by token ids and the server can; else None."""
        mode = token_mode() if self._gives_ids else None
        if mode is None:
            return None
        root = root_of(self._upstream.url("", exchange.route.base_url))

        async def post(path: str, body: Mapping[str, Any]) -> Any:
            response = await self._server.sent(root + path, encoded(body))
            exchange.call.heard()
            try:
                return await answer_in(response, self._upstream.protocol)
            finally:
                await response.aclose()

        return await mode.completion(exchange.sent, post, root)

    async def _given(self, completion: Any, exchange: Exchange) -> KeptReply:
        exchange.call.end(self._record(completion, exchange))
        shown = as_asked(completion, exchange.asked)
        if exchange.asked.get("stream"):
            given = KeptReply(EVENTS, self._shown(as_stream(shown)))
        else:
            given = KeptReply(JSON, self._shown(encoded(shown)))
        await given.send(exchange.call.reply)
        return given

    async def _response(self, exchange: Exchange, path: str) -> httpx2.Response:
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
        """Mask the real key and password, which a server may repeat in its answer."""
        if not any(secret in content for secret in self._secrets):
            return content
        return self._masked_bytes(content)

    def _masked_bytes(self, content: bytes) -> bytes:
        return self._masked(content.decode(errors="replace")).encode()

    async def _fail(self, error: Exception, call: ModelCall) -> None:
        failed = self._failure_of(error)
        call.end(failed)
        if call.reply.has_begun:  # An abrupt end is the only way left to report an error.
            raise ConnectionResetError(str(failed))
        if isinstance(error, ServiceError) and not error.within:
            status, headers = error.status_code or 502, passed(error.headers)
            await refuse(call.reply, status, str(failed), headers | JSON)
        else:
            await refuse(call.reply, 502, str(failed))

    def _failure_of(self, error: Exception) -> Failure:
        if isinstance(error, AgentFailed):
            return error
        failed = failure_of(error, self._masked)
        needs_ids = self._rollout.required and refuses_ids(str(failed))
        return without_ids(failed) if needs_ids and isinstance(failed, AgentFailed) else failed

    async def _relay_error(self, response: httpx2.Response, call: ModelCall) -> None:
        content = await whole(response)
        call.end(self._failure_of(error_of(response, content)))
        headers, shown = passed(response.headers), self._masked_bytes(content)
        await call.reply.whole(response.status_code, headers, shown)

    async def _at_once(self, response: httpx2.Response, exchange: Exchange) -> KeptReply:
        answer = await answer_in(response, self._upstream.protocol)
        exchange.call.end(self._record(answer, exchange))
        given = KeptReply(JSON, self._shown(encoded(as_asked(answer, exchange.asked))))
        await given.send(exchange.call.reply)
        return given

    async def _streamed(self, response: httpx2.Response, exchange: Exchange) -> KeptReply:
        """Forward events as they arrive; record once all are there, otherwise record a gap."""
        protocol, call = self._upstream.protocol, exchange.call
        joined, body, end = protocol.Joined(), bytearray(), b""
        headers = passed(response.headers)
        try:
            await call.reply.begin(200, headers)
            async for event, part in parts_of(response, protocol):
                call.heard()
                shown = self._event(event, part, exchange.asked)
                if part is None:  # A client takes it for the end of a good answer.
                    end = shown
                    continue
                joined.add(part)
                body += shown
                await call.reply.send(shown)
            limit = self._record(joined.whole(), exchange)
        except BaseException:
            self._add(None, exchange.model, exchange.route)
            raise
        call.end(limit)
        await call.reply.send(end)
        await call.reply.end()
        return KeptReply(headers, bytes(body + end))

    def _event(self, event: Event, part: Any, asked: Mapping[str, Any]) -> bytes:
        """An event's bytes for the client."""
        data = event.data
        if part is not None:
            data = self._shown(encoded(as_asked(part, asked)))
        named = b"event: %b\n" % event.name.encode() if event.name else b""
        return b"%bdata: %b\n\n" % (named, data)

    def _record(self, answer: Any, exchange: Exchange) -> RunLimitExceeded | None:
        """Record an answer; return the limit at which it ended, if its client must be told.

        Raises:
            AgentFailed: Its server gave up midway.
        """
        response = self._upstream.protocol.read(answer)
        usage = usage_of(response, self._name, exchange.model)
        exchange.step.update(response_record(response, usage))
        if self._traced:
            trace.record_usage(usage)
        limit = _limit_in(response)  # Before the turn is added: the client asks anew.
        model = response.model or exchange.model
        self._add(turn_of(response, exchange.sent), model, exchange.route)
        return limit

    def _add(self, turn: Turn | None, model: str, route: Route) -> None:
        self._rollout.add(
            turn, engine=self._name, model=model, gap=self._gap, version=route.version
        )


def _limit_in(response: Response) -> RunLimitExceeded | None:
    if response.finish_reason == CALL_BEFORE_TOOLS:
        return None
    failure = incomplete(response)
    if isinstance(failure, AgentFailed):
        raise failure
    return failure


async def _refuse_paused(call: ModelCall) -> None:
    call.end(paused_for_long())
    await refuse_paused(call.reply)
