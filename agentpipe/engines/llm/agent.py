"""LlmAgent: asks a model and calls the tools it requests, until it answers."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson
from pydantic_ai.messages import ModelRequest, SystemPromptPart, ToolReturnPart, UserPromptPart

from agentpipe.core.template import render
from agentpipe.engines.llm.config import setting_problems
from agentpipe.engines.llm.http_clients import new_client
from agentpipe.engines.llm.model import Conversation, LlmModel, definition
from agentpipe.engines.llm.tools import CLOSE_LIMIT_S, Toolset
from agentpipe.errors import AgentFailed, RunLimitExceeded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import httpx2
    from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart

    from agentpipe.core.context import Context
    from agentpipe.core.task import Task
    from agentpipe.engines.llm.access import Access
    from agentpipe.engines.llm.config import LlmConfig


class LlmAgent:
    """One agent with its model client and MCP sessions."""

    grace_s = 2 * CLOSE_LIMIT_S

    def __init__(self, config: LlmConfig, access: Access) -> None:
        self._config, self._access = config, access
        self._toolset = Toolset(config)
        self._client: httpx2.AsyncClient | None = None
        self._model: LlmModel | None = None

    async def execute(self, task: Task, context: Context) -> str:
        """The model's final text.

        Raises:
            AgentFailed: The model or a server failed.
            RunLimitExceeded: No answer within max_iterations or max_total_tokens.
        """
        if self._model is None:
            endpoint = self._access.model(context)
            self._client = new_client()
            self._model = LlmModel(self._config, endpoint, self._client)
        servers = self._access.servers(task, context)
        await self._toolset.open(servers, self._access.tool_env(context))
        try:
            return await _LlmRun(self._config, self._model, self._toolset, task).answer(context.env)
        finally:
            if not self._config.keep_sessions:
                await self._toolset.close()

    async def close(self) -> None:
        """Close the sessions and the HTTP client."""
        await self._toolset.close()
        if self._client is not None:
            await self._client.aclose()


class _LlmRun:
    """One task's conversation."""

    def __init__(self, config: LlmConfig, model: LlmModel, toolset: Toolset, task: Task) -> None:
        self._config, self._model, self._toolset = config, model, toolset
        self._task = task
        tools = [definition(tool) for tool in toolset.tools.values()]
        self._conversation = Conversation(_settings(config, task), tools)
        self._tokens = 0

    async def answer(self, env: Mapping[str, str]) -> str:
        self._start(render(self._config.instruction, env), _question(self._task, env))
        for _ in range(self._config.max_iterations):
            response = await self._ask()
            if not response.tool_calls:
                return self._final(response)
            await self._call(response.tool_calls)
        raise RunLimitExceeded(
            f"no answer within {self._config.max_iterations} requests: raise max_iterations"
        )

    def _final(self, response: ModelResponse) -> str:
        text = response.text or ""
        if not text.strip():
            reason = f" (finish reason: {response.finish_reason})" if response.finish_reason else ""
            raise AgentFailed(f"the model gave an empty answer{reason}", kind="NoAnswer")
        if self._config.unwraps:
            text = _unwrapped(text)
        return _json_in(text) if self._task.output_format else text

    def _start(self, instruction: str, question: str) -> None:
        parts: list[Any] = [UserPromptPart(question)]
        transcript = [{"role": "user", "content": question}]
        if instruction:
            parts.insert(0, SystemPromptPart(instruction))
            transcript.insert(0, {"role": "system", "content": instruction})
        self._add(ModelRequest(parts), *transcript)

    def _add(self, message: ModelMessage, *transcript: dict[str, Any]) -> None:
        self._conversation.messages.append(message)
        self._conversation.transcript.extend(transcript)

    async def _ask(self) -> ModelResponse:
        started = len(self._conversation.messages) > 1
        response = await self._model.ask(self._conversation, retry=started)
        self._add(response, _transcribed(response))
        self._tokens += response.usage.input_tokens + response.usage.output_tokens
        limit = self._config.max_total_tokens
        if limit is not None and self._tokens > limit:
            raise RunLimitExceeded(f"{self._tokens:,} tokens used: max_total_tokens is {limit:,}")
        return response

    async def _call(self, calls: Sequence[ToolCallPart]) -> None:
        """In sequence: a model that requests two calls may rely on their order."""
        results, transcript = [], []
        for call in calls:
            answer = await self._result(call)
            results.append(ToolReturnPart(call.tool_name, answer, call.tool_call_id))
            transcript.append(
                {"role": "tool", "tool_call_id": call.tool_call_id, "content": answer}
            )
        self._add(ModelRequest(results), *transcript)

    async def _result(self, call: ToolCallPart) -> str:
        try:
            arguments = call.args_as_dict()
        except (ValueError, AssertionError) as error:
            return f"Error: the arguments are not a JSON object: {error}"
        return await self._toolset.call(call.tool_name, arguments)


def _settings(config: LlmConfig, task: Task) -> dict[str, Any]:
    """The agent's, overridden by the task's."""
    if problems := [f"sampling: {problem}" for problem in setting_problems(task.sampling)]:
        raise AgentFailed("; ".join(problems), kind="TaskError")
    own = {} if task.seed is None else {"seed": task.seed}
    return {**config.settings, **task.sampling, **own}


def _question(task: Task, env: Mapping[str, str]) -> str:
    question: str = render(task.question, env)
    if not task.output_format:
        return question
    shape = orjson.dumps(task.output_format, option=orjson.OPT_INDENT_2).decode()
    return (
        f"{question}\n\nAnswer with JSON of this shape and nothing else, "
        f"neither other text nor a code fence around it:\n{shape}"
    )


def _unwrapped(text: str) -> str:
    """The ``answer`` beside a ``thought``, as in MCP-Universe, or else the text unchanged."""
    with suppress(orjson.JSONDecodeError):
        wrapped = orjson.loads(_json_in(text))
        if isinstance(wrapped, dict) and {"thought", "answer"} <= wrapped.keys():
            answer = wrapped["answer"]
            return answer if isinstance(answer, str) else orjson.dumps(answer).decode()
    return text


def _json_in(text: str) -> str:
    """The JSON object inside other text or a code fence, or else the text unchanged."""
    candidate = text[text.find("{") : text.rfind("}") + 1]
    with suppress(orjson.JSONDecodeError):
        orjson.loads(candidate)
        return candidate
    return text


def _transcribed(response: ModelResponse) -> dict[str, Any]:
    entry: dict[str, Any] = {"role": "assistant", "content": response.text or ""}
    if response.tool_calls:
        entry["tool_calls"] = [
            {"id": call.tool_call_id, "name": call.tool_name, "arguments": call.args}
            for call in response.tool_calls
        ]
    return entry
