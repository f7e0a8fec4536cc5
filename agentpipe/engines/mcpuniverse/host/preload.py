"""preload: imports once what each child would otherwise import itself."""

from __future__ import annotations

import gc
import importlib
import os

from . import environ, patches

MODULES = (
    "mcpuniverse.workflows.builder",
    "mcpuniverse.benchmark.task",
    "mcpuniverse.mcp.manager",
    "mcpuniverse.tracer",
    "mcp.client.stdio",
    "mcp.client.sse",
    "mcp.client.streamable_http",
    "jinja2.sandbox",
)
# OpenBLAS (numpy) would start threads at import, and threads do not survive a fork.
ONE_THREAD = "OPENBLAS_NUM_THREADS"
WARM_RUNS = 20
_MESSAGE = {"role": "assistant", "content": "none"}
COMPLETION = {
    "id": "none",
    "object": "chat.completion",
    "created": 0,
    "model": "none",
    "choices": [{"index": 0, "finish_reason": "stop", "message": _MESSAGE}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}


def preload() -> None:
    """Import and patch mcpuniverse; the parent calls this once, before it forks."""
    given = os.environ.get(ONE_THREAD)
    os.environ[ONE_THREAD] = "1"
    for name in MODULES:
        importlib.import_module(name)
    os.environ.pop(ONE_THREAD)
    if given is not None:
        os.environ[ONE_THREAD] = given
    patches.install()
    _warm_up()
    environ.remember()
    gc.collect()
    gc.freeze()


def _warm_up() -> None:
    """Exercise the SDKs, so that all children share lazy imports and specialized bytecode.

    Nothing is sent.
    """
    import anthropic
    import httpx
    import openai

    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=COMPLETION))
    for _ in range(WARM_RUNS):
        http = httpx.Client(transport=transport)
        with openai.OpenAI(api_key="none", base_url="http://none/v1", http_client=http) as client:
            client.chat.completions.create(model="none", messages=[])
    assert client.beta is not None
    with anthropic.Anthropic(api_key="none") as other:
        assert other.messages is not None
