"""preload: imports, once, all that children would import each for themselves."""

from __future__ import annotations

import gc
import importlib
import os

from . import environ

MODULES = (
    "mcpuniverse.workflows.builder",
    "mcpuniverse.benchmark.task",
    "mcpuniverse.mcp.manager",
    "mcpuniverse.tracer",
    "mcp.client.stdio",
    "mcp.client.sse",
    "mcp.client.streamable_http",
)
# numpy's library would start threads at its import, and those do not survive a fork.
ONE_THREAD = "OPENBLAS_NUM_THREADS"


def preload() -> None:
    """Import mcpuniverse, with what its LLM clients import only when they are first used."""
    given = os.environ.get(ONE_THREAD)
    os.environ[ONE_THREAD] = "1"
    for name in MODULES:
        importlib.import_module(name)
    os.environ.pop(ONE_THREAD)
    if given is not None:
        os.environ[ONE_THREAD] = given
    _warm_clients()
    environ.remember()
    gc.collect()
    gc.freeze()


def _warm_clients() -> None:
    """The SDKs load their resources lazily; nothing is sent here."""
    import anthropic
    import openai

    with openai.OpenAI(api_key="none") as client:
        assert client.chat.completions is not None
        assert client.beta is not None
    with anthropic.Anthropic(api_key="none") as client:
        assert client.messages is not None
