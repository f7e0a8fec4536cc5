"""RunGateway: forwards one run's requests to models with the real key, and records them."""

from __future__ import annotations

import contextvars
import hashlib
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agentpipe.core.outside import read_json
from agentpipe.engines.gateway.model_calls import ModelCalls
from agentpipe.engines.gateway.relay import Relay
from agentpipe.engines.gateway.replies import refuse
from agentpipe.engines.gateway.upstreams import (
    RECORDED,
    is_recorded,
    is_unrecorded,
    policy_upstream,
    upstream,
)
from agentpipe.engines.gateway.variables import PREFIX, client_variables
from agentpipe.engines.http.clients import new_client
from agentpipe.engines.models.service_errors import redirected, too_long
from agentpipe.engines.policies import KEY_NAME, URL_NAME, run_policy
from agentpipe.errors import AgentFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx2

    from agentpipe.core.context import Context
    from agentpipe.core.rollout import Rollout
    from agentpipe.core.task import Task
    from agentpipe.engines.gateway.exchange import KeptReply
    from agentpipe.engines.gateway.http_server import Reply, Request
    from agentpipe.engines.gateway.model_calls import Failure, ModelCall
    from agentpipe.engines.gateway.upstreams import Upstream

# Answers kept for clients that repeat a request after losing their connection.
KEPT_ANSWERS = 8
# Below this path, a model's answers are passed on without a record.
JUDGES = "/judges"
ONE_CHOICE = "n must be 1: a rollout has one response to each request"
NO_OBJECT = "the body must be a JSON object"


class RunGateway:
    """Serves one run; ``Gateways`` opens and closes it.

    Attributes:
        name: Part of its URL; secret outside this machine and this run.
        key: For clients that only take a key.
        context: The context variables to answer requests in, so that their spans belong to the run.
    """

    def __init__(
        self,
        task: Task,
        variables: Mapping[str, str],
        rollout: Rollout,
        *,
        own: Mapping[str, str] | None = None,
    ) -> None:
        """``variables`` name the model servers; ``own`` overrides them for the agent's requests.

        With ``own``, the agent's requests are neither counted nor traced here.
        """
        self.name = secrets.token_hex(16)
        self.key = f"{self.name}-{secrets.token_hex(16)}"
        self.base_url = ""
        self.context = contextvars.copy_context()
        self._calls, self._calls_of_judges = ModelCalls(), ModelCalls()
        self._task, self._rollout = task, rollout
        self._of_judges, self._of_agent = variables, {**variables, **(own or {})}
        self._policy = run_policy()
        self._traced = own is None
        self._client: httpx2.AsyncClient | None = None
        self._relays: dict[tuple[str, bool], Relay] = {}
        self._answers: dict[bytes, KeptReply] = {}

    def failure_behind(self, error: Exception) -> Failure | None:
        """Why the last request failed, if the run fails with ``error`` for that. Otherwise None."""
        return self._calls.failure_behind(error)

    @property
    def env(self) -> dict[str, str]:
        """Variables that point the official clients to this gateway."""
        env = client_variables(self.base_url, self.key)
        if self._policy is None:
            return env
        return {**env, URL_NAME: self.base_url + PREFIX, KEY_NAME: self.key}

    @property
    def judges_env(self) -> dict[str, str]:
        """Variables for evaluators that ask models: their requests are not turns of the run."""
        return client_variables(self.base_url + JUDGES, self.key)

    def led(self, context: Context) -> Context:
        """``context`` with variables that point to this gateway, without the real keys."""
        env = {**context.env, **self.env}
        return replace(context, env=env, base_url=self.base_url)

    async def answer(self, request: Request, path: str, reply: Reply) -> None:
        """Answer one request; failures are answered, too."""
        judges = path.startswith(JUDGES)
        below = path.removeprefix(JUDGES).removeprefix(PREFIX).partition("?")[0]
        known = (request.method, below)
        if not (is_recorded(*known) or is_unrecorded(*known)):
            await refuse(reply, 404, f"{request.method} {below} is not recorded: it is refused")
            return
        with (self._calls_of_judges if judges else self._calls).begin(reply) as call:
            try:
                await self._passed(request, below, call, judges=judges)
            except AgentFailed as failed:  # The server's address is wrong.
                call.end(failed)
                await refuse(reply, 502, str(failed))

    async def close(self) -> None:
        """Close the connections to model servers."""
        if self._client is not None:
            await self._client.aclose()

    async def _passed(self, request: Request, path: str, call: ModelCall, *, judges: bool) -> None:
        if request.is_too_large:
            call.end(too_long())
            await refuse(call.reply, 413, "the request is too large", {"connection": "close"})
        elif judges or not is_recorded(request.method, path):
            protocol = RECORDED.get(path) or _protocol_of(request)
            await self._relay(protocol, judges=judges).pass_on(request, path, call)
        else:
            await self._recorded(request, path, call)

    async def _recorded(self, request: Request, path: str, call: ModelCall) -> None:
        try:
            body = read_json(request.body, exact=True)
        except ValueError as error:  # Includes JSON that is nested too deeply.
            await _refuse_asked(call, f"{NO_OBJECT}: {error}")
            return
        if not isinstance(body, dict):
            await _refuse_asked(call, NO_OBJECT)
        elif body.get("n") not in (None, 1):
            await _refuse_asked(call, ONE_CHOICE)
        else:
            await self._answered(request, body, path, call)

    async def _answered(
        self, request: Request, body: dict[str, Any], path: str, call: ModelCall
    ) -> None:
        digest = hashlib.blake2b(path.encode() + request.body, digest_size=16).digest()
        if _is_repeat(request) and (known := self._answers.get(digest)):
            call.end(None)
            await known.send(call.reply)
            return
        answer = await self._relay(RECORDED[path]).answer(body, path, call)
        if answer is not None:
            self._answers[digest] = answer
            if len(self._answers) > KEPT_ANSWERS:
                del self._answers[next(iter(self._answers))]

    def _relay(self, protocol: str, *, judges: bool = False) -> Relay:
        key = (protocol, judges)
        if key not in self._relays:
            self._relays[key] = Relay(
                self._upstream(protocol, judges=judges),
                self._opened(),
                self._task,
                self._rollout,
                traced=self._traced,
                policy=None if judges else self._policy,
            )
        return self._relays[key]

    def _upstream(self, protocol: str, *, judges: bool) -> Upstream:
        if judges:
            return upstream(protocol, self._of_judges)
        if self._policy is not None:
            return policy_upstream(protocol, self._policy)
        return upstream(protocol, self._of_agent)

    def _opened(self) -> httpx2.AsyncClient:
        if self._client is None:
            self._client = new_client(redirected, plain=True)
        return self._client


async def _refuse_asked(call: ModelCall, message: str) -> None:
    """Refuse what the agent asks: that is its own error."""
    call.end(None)
    await refuse(call.reply, 400, message)


def _protocol_of(request: Request) -> str:
    return "anthropic" if "anthropic-version" in request.headers else "openai"


def _is_repeat(request: Request) -> bool:
    """Whether this is a retry: the official clients count theirs in a header."""
    return request.headers.get("x-stainless-retry-count", "0") not in ("", "0")
