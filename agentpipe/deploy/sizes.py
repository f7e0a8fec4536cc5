"""Sizes: how much memory a pod of a collection asks for, as ``python -m bench.sizes`` measures.

An agent's own memory is not known here: give ``--memory-mib`` where it matters.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.config.agent_config import load_agent_config
from agentpipe.errors import AgentpipeError

if TYPE_CHECKING:
    from agentpipe.config.collection import Collection

# In MiB, measured and rounded up: one worker process with its supervisor; a run, which waits with
# 0.04 and here has room for its conversation and its trace, or a child of ``isolation: process``;
# what the libraries of models and of MCP take once; an MCP server in Python.
WORKER_MIB = 64
RUN_MIB = {"coroutine": 0.25, "thread": 0.25, "process": 16.0}
MODELS_MIB = 48
SERVER_MIB = 75
# A pod may reach so many times what it asks for before it is killed.
HEADROOM = 2
MAX_SLOTS = 1_000


def slots_of(collection: Collection) -> int:
    """How many runs one worker process has at once, unless it is set otherwise."""
    agents = collection.number * max(1, len(collection.contexts))
    return min(MAX_SLOTS, agents * collection.concurrency)


def memory_mib(collection: Collection, slots: int) -> int:
    """For one worker process with so many runs."""
    is_llm, servers = _model_agent(collection)
    each = RUN_MIB[collection.isolation] + SERVER_MIB * servers
    return int(WORKER_MIB + (MODELS_MIB if is_llm else 0) + slots * each)


def _model_agent(collection: Collection) -> tuple[bool, int]:
    """Whether its agents are of type ``llm``, and how many programs of MCP servers each starts."""
    if not Path(collection.config_file).is_file():  # Only the image has it.
        return False, 0
    try:
        agent = load_agent_config(collection.config_file)
    except AgentpipeError:  # `check` says what is wrong.
        return False, 0
    servers = agent.config.get("servers") or []
    started = [it for it in servers if isinstance(it, dict) and not it.get("url")]
    return agent.type == "llm", len(started)
