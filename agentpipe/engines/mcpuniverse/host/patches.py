"""Taps: MCP-Universe and the libraries below it, wrapped so that a run's Watch hears of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from . import llm, monitor
from .failure import is_infra, is_infra_status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_real_sleep = time.sleep


def install() -> None:
    """Wrap it all, once; what belongs to no run is left as it was."""
    import httpx
    import requests
    from mcpuniverse.agent import claude_code
    from mcpuniverse.llm.base import BaseLLM
    from mcpuniverse.mcp.client import MCPClient

    BaseLLM.generate = llm.generating(BaseLLM.generate)
    BaseLLM.generate_async = llm.generate_async
    httpx.Client.send = _sending(httpx.Client.send)
    requests.Session.send = _sending(requests.Session.send)
    MCPClient.execute_tool = _executing_tool(MCPClient.execute_tool)
    claude_code.ClaudeSDKClient = _telling(claude_code.ClaudeSDKClient)
    setattr(time, "sleep", _sleep)  # noqa: B010 - no type checker lets a function be replaced
    _forbid_code_in_templates()


def _sending(send: Callable[..., Any]) -> Callable[..., Any]:
    """For the HTTP clients of the SDKs."""

    def watched(session: Any, request: Any, **kwargs: Any) -> Any:
        call, run = llm.current(), monitor.current()
        if run is None:
            return send(session, request, **kwargs)
        run.go_on()
        try:
            response = send(session, request, **kwargs)
        except Exception as error:
            _unanswered(call, run, error)
            raise
        if call is None:
            infra = is_infra_status(response.status_code)
            run.unanswered = f"HTTP {response.status_code} from {request.url}" if infra else None
        elif request.method == "POST":  # Some LLM classes also look up which models there are.
            call.responded(response)
        return response

    return watched


def _unanswered(call: llm.Call | None, run: monitor.Watch, error: Exception) -> None:
    if call is not None:
        call.failed(error)
    elif is_infra(error):
        run.unanswered = f"{type(error).__name__}: {error}"


def _executing_tool(execute: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """For ``MCPClient.execute_tool``."""

    async def watched(client: Any, *args: Any, **kwargs: Any) -> Any:
        run = monitor.current()
        try:
            result = await execute(client, *args, **kwargs)
        except Exception as error:
            if run is not None:
                run.tool_called(client.id, error)
            raise
        if run is not None:
            run.tool_called(client.id, None)
        return result

    return watched


def _telling(client: Any) -> Any:
    """Claude Code's client; its agent makes an answer of the text of whatever is raised."""

    async def enter(self: Any) -> Any:
        try:
            return await client.__aenter__(self)
        except Exception as error:
            _agent_failed(error)
            raise

    async def leave(self: Any, kind: Any, error: Any, trace: Any) -> Any:
        if isinstance(error, Exception):
            _agent_failed(error)
        return await client.__aexit__(self, kind, error, trace)

    return type(client.__name__, (client,), {"__aenter__": enter, "__aexit__": leave})


def _agent_failed(error: Exception) -> None:
    run = monitor.current()
    if run is not None:
        run.failure = error


def _sleep(seconds: float) -> None:
    """For ``time.sleep``: SDKs and LLM classes pause with it between tries."""
    call, run = llm.current(), monitor.current()
    if call is not None:
        call.pause(seconds)
    elif run is not None:
        run.pause(seconds)
    else:
        _real_sleep(seconds)


def _forbid_code_in_templates() -> None:
    """Questions come from whoever may send tasks, and 1.1.3 lets their templates run Python."""
    from jinja2.sandbox import SandboxedEnvironment
    from mcpuniverse.benchmark import task
    from mcpuniverse.evaluator import evaluator

    for module in (task, evaluator):
        module.Environment = SandboxedEnvironment
