"""Patches of MCP-Universe and its libraries, which report to a run's Monitor."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from . import blame
from .failure import is_infra, is_infra_status
from .llm import LlmCall, current_call, generate_async, patched_generate
from .monitor import Monitor, current_monitor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_real_sleep = time.sleep


def install() -> None:
    """Apply all patches, once; code outside runs behaves as before."""
    import httpx
    import requests
    from mcpuniverse.agent import claude_code
    from mcpuniverse.llm.base import BaseLLM
    from mcpuniverse.mcp.client import MCPClient

    BaseLLM.generate = patched_generate(BaseLLM.generate)
    BaseLLM.generate_async = generate_async
    httpx.Client.send = _patched_send(httpx.Client.send)
    requests.Session.send = _patched_send(requests.Session.send)
    MCPClient.execute_tool = _patched_execute_tool(MCPClient.execute_tool)
    claude_code.ClaudeSDKClient = _patched_client(claude_code.ClaudeSDKClient)
    setattr(time, "sleep", _sleep)  # noqa: B010 - mypy rejects the assignment
    blame.install()


def _patched_send(send: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``send`` of the HTTP clients that the SDKs use."""

    def wrapper(session: Any, request: Any, **kwargs: Any) -> Any:
        call, monitor = current_call(), current_monitor()
        if monitor is None:
            return send(session, request, **kwargs)
        monitor.raise_if_cancelled()
        try:
            response = send(session, request, **kwargs)
        except Exception as error:
            _record_error(call, monitor, error)
            raise
        if call is None:
            infra = is_infra_status(response.status_code)
            status = f"HTTP {response.status_code} from {request.url}"
            monitor.unanswered = status if infra else None
        elif request.method == "POST":  # Some LLM classes also list models, with GET.
            call.responded(response)
        return response

    return wrapper


def _record_error(call: LlmCall | None, monitor: Monitor, error: Exception) -> None:
    if call is not None:
        call.failed(error)
    elif is_infra(error):
        monitor.unanswered = f"{type(error).__name__}: {error}"


def _patched_execute_tool(execute: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap ``MCPClient.execute_tool``."""

    async def wrapper(client: Any, *args: Any, **kwargs: Any) -> Any:
        monitor = current_monitor()
        try:
            result = await execute(client, *args, **kwargs)
        except Exception as error:
            if monitor is not None:
                monitor.tool_called(client.id, error)
            raise
        if monitor is not None:
            monitor.tool_called(client.id, None)
        return result

    return wrapper


def _patched_client(client: Any) -> Any:
    """Subclass Claude Code's client, whose agent answers with the text of any error."""

    async def enter(self: Any) -> Any:
        try:
            return await client.__aenter__(self)
        except Exception as error:
            _record_failure(error)
            raise

    async def leave(self: Any, kind: Any, error: Any, trace: Any) -> Any:
        if isinstance(error, Exception):
            _record_failure(error)
        return await client.__aexit__(self, kind, error, trace)

    return type(client.__name__, (client,), {"__aenter__": enter, "__aexit__": leave})


def _record_failure(error: Exception) -> None:
    monitor = current_monitor()
    if monitor is not None:
        monitor.failure = error


def _sleep(seconds: float) -> None:
    """Replace ``time.sleep``, which SDKs and LLM classes use for pauses between retries."""
    call, monitor = current_call(), current_monitor()
    if call is not None:
        call.pause(seconds)
    elif monitor is not None:
        monitor.pause(seconds)
    else:
        _real_sleep(seconds)
