"""LlmAgent: asks a model and calls the tools it requests, until it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.core.result import STOP
from agentpipe.core.sampling import sampling_problems, within
from agentpipe.core.template import render
from agentpipe.engines.base import Answer
from agentpipe.engines.http.clients import new_client
from agentpipe.engines.llm.json_answers import json_in, unwrapped
from agentpipe.engines.llm.model import LlmModel
from agentpipe.engines.llm.toolset import Toolset
from agentpipe.engines.mcp.transport import CLOSE_LIMIT_S
from agentpipe.engines.models import stops
from agentpipe.engines.models.conversation import Conversation, Question, ToolResult, ToolResults
from agentpipe.engines.models.reading import arguments_of
from agentpipe.engines.models.run_url import is_template
from agentpipe.engines.models.service_errors import redirected
from agentpipe.errors import AgentFailed, RunLimitExceeded

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx2

    from agentpipe.core.context import Context
    from agentpipe.core.task import Task
    from agentpipe.engines.llm.access import Access
    from agentpipe.engines.llm.config import LlmConfig
    from agentpipe.engines.mcp.sessions import EngineSessions
    from agentpipe.engines.models.conversation import Response, ToolCall

# A cut answer may lack the end of its arguments. Valid JSON proves nothing: missing arguments are
# an empty object, and Anthropic closes open brackets.
_CUT = (
    "Error: nothing was called: your answer was cut {}, so the arguments may be incomplete; "
    "call it again, with less text or in parts"
)
_NO_OBJECT = "Error: nothing was called, the arguments are not a JSON object: {}; call it again"


class LlmAgent:
    """One agent with its model client and MCP sessions."""

    grace_s = 2 * CLOSE_LIMIT_S

    def __init__(self, config: LlmConfig, access: Access, sessions: EngineSessions) -> None:
        self._config, self._access = config, access
        self._toolset = Toolset(config, sessions)
        self._client: httpx2.AsyncClient | None = None
        self._model: LlmModel | None = None

    async def execute(self, task: Task, context: Context) -> Answer:
        """Return the model's final text, and why it ended there.

        Raises:
            AgentFailed: The model or a server failed.
            RunLimitExceeded: No answer within max_iterations, max_total_tokens or the model's
                context window.
        """
        model = self._model_for(task, context)
        servers = self._access.servers(task, context)
        await self._toolset.open(servers, self._access.tool_env(context), context.account)
        try:
            return await _LlmRun(self._config, model, self._toolset, task).answer(context)
        finally:
            await self._toolset.release()

    def _model_for(self, task: Task, context: Context) -> LlmModel:
        """The model client, shared by all runs unless its URL differs by run."""
        if self._model is None or is_template(self._config.base_url):
            endpoint = self._access.model(task, context)
            if self._client is None:
                self._client = new_client(redirected, plain=True)
            secrets = (*context.env.values(), *self._access.secrets)
            self._model = LlmModel(self._config, endpoint, self._client, secrets)
        return self._model

    async def close(self) -> None:
        """Close the sessions and the HTTP client."""
        await self._toolset.close()
        if self._client is not None:
            await self._client.aclose()


class _LlmRun:
    """The conversation of one task."""

    def __init__(self, config: LlmConfig, model: LlmModel, toolset: Toolset, task: Task) -> None:
        self._config, self._model, self._toolset = config, model, toolset
        self._task = task
        self._tokens = 0

    async def answer(self, context: Context) -> Answer:
        instruction = render(self._config.instruction, context.env)
        conversation = Conversation(_settings(self._config, self._task), (), instruction)
        # The question comes from the sender, so it sees less of the context than the instruction.
        conversation.turns.append(Question(_question(self._task, context.readable)))
        for _ in range(self._config.max_iterations):
            conversation.tools = await self._toolset.definitions()
            response = await self._ask(conversation)
            if response.calls:
                conversation.turns.append(await self._results(response))
            elif not stops.paused(response):
                return self._final(response)
        raise RunLimitExceeded(
            f"no answer within {self._config.max_iterations} requests: raise max_iterations"
        )

    async def _ask(self, conversation: Conversation) -> Response:
        started = len(conversation.turns) > 1
        response = await self._model.ask(conversation, retry=started)
        conversation.turns.append(response)
        if response.tokens:
            self._tokens += response.tokens.input + response.tokens.output
        limit = self._config.max_total_tokens
        if limit is not None and self._tokens > limit:
            used = f"{self._tokens:,} tokens used: max_total_tokens is {limit:,}"
            raise RunLimitExceeded(used, stop="tokens")
        return response

    async def _results(self, response: Response) -> ToolResults:
        """Call the tools in sequence: a model that requests two calls can rely on their order."""
        cut = stops.cut(response)
        calls = response.calls[:-1] if cut else response.calls
        results = [await self._result(call) for call in calls]
        if cut:
            results.append(ToolResult(response.calls[-1], _CUT.format(cut)))
        return ToolResults(tuple(results))

    async def _result(self, call: ToolCall) -> ToolResult:
        """The tool's result, or an error message if the call is invalid and not made."""
        try:
            arguments = arguments_of(call.arguments)
        except ValueError as flaw:
            return ToolResult(call, _NO_OBJECT.format(flaw))
        return await self._toolset.call(call, arguments)

    def _final(self, response: Response) -> Answer:
        """The final answer; an empty one is accepted if it was cut or refused."""
        stop, text = stops.stop_of(response), response.text
        if stop in {STOP, None} and not text.strip():
            said = response.finish_reason
            reason = f" (finish reason: {said})" if said else ""
            raise AgentFailed(f"the model gave an empty answer{reason}", kind="NoAnswer")
        if self._config.unwraps:
            text = unwrapped(text)
        wanted = self._task.output_format
        return Answer(json_in(text, wanted) if wanted else text, stop)


def _settings(config: LlmConfig, task: Task) -> dict[str, Any]:
    """The agent's settings, overridden by the task's within limits, if the provider takes them."""
    if problems := sampling_problems(task.sampling):
        raise AgentFailed("; ".join(problems), kind="TaskError")
    own = {} if task.seed is None else {"seed": task.seed}
    return config.provider.sent(
        {**config.settings, **within(task.sampling, config.settings), **own}
    )


def _question(task: Task, env: Mapping[str, str]) -> str:
    question: str = render(task.question, env)
    if not task.output_format:
        return question
    shape = orjson.dumps(task.output_format, option=orjson.OPT_INDENT_2).decode()
    return (
        f"{question}\n\nAnswer with JSON of this shape and nothing else, "
        f"neither other text nor a code fence around it:\n{shape}"
    )
