"""LlmAgent: asks a model, calls the tools that it asks for, until it answers."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson
from pydantic_ai.messages import ModelRequest, SystemPromptPart, ToolReturnPart, UserPromptPart

from agentpipe.core.template import render
from agentpipe.engines.llm.config import setting_problems
from agentpipe.engines.llm.http_clients import new_client
from agentpipe.engines.llm.model import Conversation, LlmModel, definition
from agentpipe.engines.llm.tools import CLOSE_LIMIT_S, Toolbox
from agentpipe.errors import AgentFailed, RunLimitExceeded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import httpx2
    from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart

    from agentpipe.core.context import Context
    from agentpipe.core.task import Task
    from agentpipe.engines.llm.access import Places
    from agentpipe.engines.llm.config import LlmSpec


class LlmAgent:
    """One agent with its sessions.

    Args:
        places: Finds the model, its key and the servers in a context.
    """

    grace_s = 2 * CLOSE_LIMIT_S

    def __init__(self, spec: LlmSpec, places: Places) -> None:
        self._spec, self._places = spec, places
        self._toolbox = Toolbox(spec.start_limit_s, spec.tool_limit_s, spec.max_tool_chars)
        self._client: httpx2.AsyncClient | None = None
        self._model: LlmModel | None = None

    async def execute(self, task: Task, context: Context) -> str:
        """The model's last text.

        Raises:
            AgentFailed: The model or a server failed.
            RunLimitExceeded: No answer within the iterations or tokens that are allowed.
        """
        if self._model is None:
            access = self._places.access(context)
            self._client = new_client()
            self._model = LlmModel(self._spec, access, self._client)
        servers = self._places.servers(self._spec, task, context)
        await self._toolbox.open(servers, self._places.env_of_tools(context))
        try:
            return await _Run(self._spec, self._model, self._toolbox, task).answer(context.env)
        finally:
            if not self._spec.keep_sessions:
                await self._toolbox.close()

    async def close(self) -> None:
        """End the sessions."""
        await self._toolbox.close()
        if self._client is not None:
            await self._client.aclose()


class _Run:
    """One task's conversation."""

    def __init__(self, spec: LlmSpec, model: LlmModel, toolbox: Toolbox, task: Task) -> None:
        self._spec, self._model, self._toolbox = spec, model, toolbox
        self._task = task
        tools = [definition(tool) for tool in toolbox.tools.values()]
        self._conversation = Conversation(_settings(spec, task), tools)
        self._tokens = 0

    async def answer(self, env: Mapping[str, str]) -> str:
        self._begin(render(self._spec.instruction, env), _question(self._task, env))
        for _ in range(self._spec.max_iterations):
            response = await self._ask()
            if not response.tool_calls:
                return self._final(response)
            await self._call(response.tool_calls)
        raise RunLimitExceeded(
            f"no answer within {self._spec.max_iterations} requests: raise max_iterations"
        )

    def _final(self, response: ModelResponse) -> str:
        text = response.text or ""
        if not text.strip():
            why = f" (finish reason: {response.finish_reason})" if response.finish_reason else ""
            raise AgentFailed(f"the model answered nothing{why}", kind="NoAnswer")
        if self._spec.unwraps:
            text = _unwrapped(text)
        return _json_in(text) if self._task.output_format else text

    def _begin(self, instruction: str, question: str) -> None:
        parts: list[Any] = [UserPromptPart(question)]
        told = [{"role": "user", "content": question}]
        if instruction:
            parts.insert(0, SystemPromptPart(instruction))
            told.insert(0, {"role": "system", "content": instruction})
        self._say(ModelRequest(parts), *told)

    def _say(self, message: ModelMessage, *told: dict[str, Any]) -> None:
        self._conversation.messages.append(message)
        self._conversation.transcript.extend(told)

    async def _ask(self) -> ModelResponse:
        patient = len(self._conversation.messages) > 1
        response = await self._model.ask(self._conversation, patient=patient)
        self._say(response, _told(response))
        self._tokens += response.usage.input_tokens + response.usage.output_tokens
        limit = self._spec.max_total_tokens
        if limit is not None and self._tokens > limit:
            raise RunLimitExceeded(f"{self._tokens:,} tokens used: max_total_tokens is {limit:,}")
        return response

    async def _call(self, calls: Sequence[ToolCallPart]) -> None:
        """One after the other: a model that asks for two may rely on their order."""
        results, told = [], []
        for call in calls:
            answer = await self._result(call)
            results.append(ToolReturnPart(call.tool_name, answer, call.tool_call_id))
            told.append({"role": "tool", "tool_call_id": call.tool_call_id, "content": answer})
        self._say(ModelRequest(results), *told)

    async def _result(self, call: ToolCallPart) -> str:
        try:
            arguments = call.args_as_dict()
        except (ValueError, AssertionError) as error:
            return f"Error: the arguments are no JSON object: {error}"
        return await self._toolbox.call(call.tool_name, arguments)


def _settings(spec: LlmSpec, task: Task) -> dict[str, Any]:
    """The agent's, then the task's."""
    if problems := [f"sampling: {problem}" for problem in setting_problems(task.sampling)]:
        raise AgentFailed("; ".join(problems), kind="TaskError")
    own = {} if task.seed is None else {"seed": task.seed}
    return {**spec.settings, **task.sampling, **own}


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
    """The answer that stands beside a thought, as MCP-Universe takes it; else the text as it is."""
    with suppress(orjson.JSONDecodeError):
        wrapped = orjson.loads(_json_in(text))
        if isinstance(wrapped, dict) and {"thought", "answer"} <= wrapped.keys():
            answer = wrapped["answer"]
            return answer if isinstance(answer, str) else orjson.dumps(answer).decode()
    return text


def _json_in(text: str) -> str:
    """The JSON object that a model wrapped in words or a code fence; else the text as it is."""
    candidate = text[text.find("{") : text.rfind("}") + 1]
    with suppress(orjson.JSONDecodeError):
        orjson.loads(candidate)
        return candidate
    return text


def _told(response: ModelResponse) -> dict[str, Any]:
    told: dict[str, Any] = {"role": "assistant", "content": response.text or ""}
    if response.tool_calls:
        told["tool_calls"] = [
            {"id": call.tool_call_id, "name": call.tool_name, "arguments": call.args}
            for call in response.tool_calls
        ]
    return told
