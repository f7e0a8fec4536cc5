"""LlmModel: one model at one provider, called over HTTP.

Every failure of a request becomes a single error here, so a service failure is never mistaken for
an answer.
"""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import TYPE_CHECKING, Any

import httpx2

from agentpipe.core import caps, trace
from agentpipe.core.backoff import delay_s
from agentpipe.core.caps import CapExceeded
from agentpipe.core.outside import encoded
from agentpipe.core.redaction import Redactor
from agentpipe.core.rollout import recorder
from agentpipe.engines.llm.access import with_version
from agentpipe.engines.models.answers import answer_in, is_stream, parts_of
from agentpipe.engines.models.credentials import NO_KEY, header_value
from agentpipe.engines.models.protocols import PROTOCOLS
from agentpipe.engines.models.reading import UnreadableResponse
from agentpipe.engines.models.recording import (
    IdRequests,
    refuses_ids,
    response_record,
    turn_of,
    usage_of,
    without_ids,
)
from agentpipe.engines.models.service_errors import ServiceError, failure_of, incomplete, too_long
from agentpipe.engines.models.token_mode import root_of, token_mode
from agentpipe.engines.policies import Route, run_policy
from agentpipe.errors import AgentFailed, RunLimitExceeded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agentpipe.engines.llm.access import Endpoint
    from agentpipe.engines.llm.config import LlmConfig
    from agentpipe.engines.models.conversation import Conversation, Response
    from agentpipe.engines.models.token_mode import TokenMode

FAULTS = (ServiceError, UnreadableResponse, CapExceeded, TimeoutError, httpx2.HTTPError)
# Retry only within a run that has made progress; a new run goes back to the queue.
TRIES = 4
PAUSE_S, MAX_PAUSE_S = 2.0, 60.0
_JSON = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}


class LlmModel:
    """Sends requests, records them in the trace, and counts tokens and cost."""

    def __init__(
        self,
        config: LlmConfig,
        endpoint: Endpoint,
        client: httpx2.AsyncClient,
        secrets: Iterable[str] = (),
    ) -> None:
        self._config, self._client = config, client
        self._secrets = (endpoint.key, *secrets)
        self._protocol = PROTOCOLS[config.provider.protocol]
        self._provider = config.provider.at(endpoint.base_url)
        self._own = Route(None, endpoint.base_url, config.model)
        self._is_openai = config.provider.protocol == "openai"
        self._urls: dict[str, httpx2.URL] = {}
        url = self._url_of(self._own)
        self._headers = self._headers_with(endpoint.key)
        self._ids = IdRequests(f"{url.host}:{url.port or ''}".rstrip(":"))
        self._extensions = {"timeout": client.timeout.as_dict()}

    async def ask(self, conversation: Conversation, *, retry: bool) -> Response:
        """Return the next response; with ``retry``, a failing service is retried, with pauses.

        Raises:
            AgentFailed: The request failed; ``infra`` is set if the service did.
            RunLimitExceeded: The conversation does not fit into the model's context window.
        """
        tries = TRIES if retry else 1
        for done in range(1, tries + 1):
            try:
                return await self._routed(conversation)
            except AgentFailed as failure:
                pause_s = max(failure.retry_after_s or 0.0, delay_s(done, PAUSE_S, MAX_PAUSE_S))
                if not _is_worth_a_try(failure) or done == tries or pause_s > MAX_PAUSE_S:
                    raise
                await asyncio.sleep(pause_s)
        raise AssertionError

    async def _routed(self, conversation: Conversation) -> Response:
        """Ask within the run's policy, if it has one; during a pause the request waits."""
        policy = run_policy()
        if policy is None:
            return await self._recorded(conversation, self._own)
        async with policy.request(patient=True) as route:
            return await self._recorded(conversation, route)

    def _url_of(self, route: Route) -> httpx2.URL:
        if route.base_url not in self._urls:
            base_url = route.base_url
            if route.version is not None:
                base_url = with_version(base_url, "local" if self._is_openai else "anthropic")
            self._urls[route.base_url] = httpx2.URL(base_url + self._protocol.PATH)
        return self._urls[route.base_url]

    def _headers_with(self, key: str) -> httpx2.Headers:
        credential = self._protocol.headers(header_value(key))
        return httpx2.Headers({**self._client.headers, **_JSON, **credential})

    def _headers_of(self, route: Route) -> httpx2.Headers:
        """Headers with the policy's key for its servers, never the agent provider's key."""
        policy = run_policy()
        if route.version is None or policy is None:
            return self._headers
        return self._headers_with(policy.key or NO_KEY)

    async def _recorded(self, conversation: Conversation, route: Route) -> Response:
        model = route.model or self._config.model
        config = {"model_name": model, **conversation.settings}
        record: dict[str, Any] = {
            "type": "llm",
            "class": self._config.provider.name,
            "config": config,
        }
        if tools := conversation.unrecorded_tools():
            record["tools"] = tools
        with trace.step({**record, "messages": conversation.unrecorded()}) as step:
            if route.version is not None:
                step["policy_version"] = route.version
            response = await self._request(conversation, route)
            usage = usage_of(response, self._config.provider.name, model)
            step.update(response_record(response, usage))
            trace.record_usage(usage)
            failure = incomplete(response)
            if not isinstance(failure, AgentFailed):  # Else the model is asked anew.
                self._record_ids(conversation, response, route)
            if failure:
                raise failure
        return response

    def _record_ids(self, conversation: Conversation, response: Response, route: Route) -> None:
        rollout = recorder()
        if rollout is None:
            return
        turn = turn_of(response, conversation.settings)
        model = response.model or route.model or self._config.model
        provider, gap = self._config.provider.name, self._ids.gap
        rollout.add(turn, engine=provider, model=model, gap=gap, version=route.version)

    async def _request(self, conversation: Conversation, route: Route) -> Response:
        """Ask for token ids too, if the run records them and the server has not refused that."""
        rollout = recorder()
        wanted = rollout is not None and (rollout.required or self._ids.are_wanted)
        try:
            return await self._response(conversation, route, token_ids=wanted)
        except AgentFailed as failure:
            if rollout is None or not wanted or failure.infra or not refuses_ids(str(failure)):
                raise
            if rollout.required:
                raise without_ids(failure) from failure
            self._ids.note_refusal()
        return await self._response(conversation, route, token_ids=False)

    async def _response(
        self, conversation: Conversation, route: Route, *, token_ids: bool
    ) -> Response:
        body = self._protocol.body(
            conversation,
            route.model or self._config.model,
            self._provider,
            stream=self._config.stream,
            token_ids=token_ids,
        )
        try:
            async with asyncio.timeout(self._config.request_timeout_s):
                mode = token_mode() if token_ids and self._is_openai else None
                return self._protocol.read(await self._completion(body, route, mode))
        except FAULTS as error:
            failure = failure_of(error, self._redactor.text)
            raise failure from (None if isinstance(failure, RunLimitExceeded) else error)

    async def _completion(
        self, body: Mapping[str, Any], route: Route, mode: TokenMode | None
    ) -> Any:
        url = self._url_of(route)
        root = root_of(str(url).removesuffix(self._protocol.PATH))

        async def post(path: str, sent: Mapping[str, Any]) -> Any:
            return await self._answer(self._request_to(httpx2.URL(root + path), sent, route))

        if mode is not None and (completion := await mode.completion(body, post, root)) is not None:
            return completion
        return await self._answer(self._request_to(url, body, route))

    def _request_to(self, url: httpx2.URL, body: Mapping[str, Any], route: Route) -> httpx2.Request:
        content = encoded(body)
        if len(content) > caps.MAX_REQUEST_BYTES:
            raise too_long("lower max_tool_chars")
        headers = self._headers_of(route)
        extensions = self._extensions
        return httpx2.Request("POST", url, content=content, headers=headers, extensions=extensions)

    async def _answer(self, request: httpx2.Request) -> Any:
        """The answer as an object, whether it arrives whole or as a stream."""
        response = await self._client.send(request, stream=True)
        try:
            if is_stream(response):
                return await self._joined(response)
            return await answer_in(response, self._protocol)
        finally:
            await response.aclose()

    async def _joined(self, response: httpx2.Response) -> Any:
        joined = self._protocol.Joined()
        async for _, part in parts_of(response, self._protocol):
            if part is not None:
                joined.add(part)
        return joined.whole()

    @cached_property
    def _redactor(self) -> Redactor:
        return Redactor(self._secrets)


def _is_worth_a_try(failure: AgentFailed) -> bool:
    return failure.infra and not failure.permanent
