"""Sizes: the memory that a collection's pod requests, as measured by ``python -m bench.sizes``.

An agent's own memory is unknown here: set ``--memory-mib`` if it matters.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.config.agent_config import load_agent_config
from agentpipe.errors import AgentpipeError

if TYPE_CHECKING:
    from agentpipe.config.collection import Collection

# In MiB, measured and rounded up. WORKER_MIB: one worker process with its supervisor. RUN_MIB: one
# run; a waiting run takes 0.04, and the rest is room for its conversation and trace, or for a child
# of ``isolation: process``. MODELS_MIB: the model and MCP libraries, once per process. SERVER_MIB:
# an MCP server in Python.
WORKER_MIB = 64
RUN_MIB = {"coroutine": 0.25, "thread": 0.25, "process": 16.0}
MODELS_MIB = 48
SERVER_MIB = 75
# Memory limit of a pod, as a multiple of its request.
HEADROOM = 2
MAX_SLOTS = 1_000


def slots_of(collection: Collection) -> int:
    """Return the number of concurrent runs per worker process, unless it is set explicitly."""
    agents = collection.number * max(1, len(collection.contexts))
    return min(MAX_SLOTS, agents * collection.concurrency)


def memory_mib(collection: Collection, slots: int) -> int:
    """Return the memory for one worker process with this many concurrent runs."""
    is_llm, servers = _model_agent(collection)
    each = RUN_MIB[collection.isolation] + SERVER_MIB * servers
    return int(WORKER_MIB + (MODELS_MIB if is_llm else 0) + slots * each)


def _model_agent(collection: Collection) -> tuple[bool, int]:
    """Return whether its agents have type ``llm``, and how many MCP servers each starts."""
    if not Path(collection.config_file).is_file():  # Only the image has the file.
        return False, 0
    try:
        agent = load_agent_config(collection.config_file)
    except AgentpipeError:  # `check` reports what is wrong.
        return False, 0
    servers = agent.config.get("servers") or []
    started = [it for it in servers if isinstance(it, dict) and not it.get("url")]
    return agent.type == "llm", len(started)
