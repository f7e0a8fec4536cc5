"""agentpipe runs AI agents by the thousand and gives every result back as one stream."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentpipe import trace
    from agentpipe.collection import Collection, load
    from agentpipe.compile import sender_broker
    from agentpipe.context import Context
    from agentpipe.dispatcher import Dispatcher, Sent
    from agentpipe.errors import (
        AgentpipeError,
        ConfigError,
        InfraError,
        QueueFull,
        TaskError,
        Unreachable,
    )
    from agentpipe.mq import MQFactory
    from agentpipe.pipeline import AgentPipeline, TaskConfig
    from agentpipe.settings import Settings
    from agentpipe.stream import Stream
    from agentpipe.task import Result, Task

__version__ = "0.1.0"

__all__ = [
    "AgentPipeline",
    "AgentpipeError",
    "Collection",
    "ConfigError",
    "Context",
    "Dispatcher",
    "InfraError",
    "MQFactory",
    "QueueFull",
    "Result",
    "Sent",
    "Settings",
    "Stream",
    "Task",
    "TaskConfig",
    "TaskError",
    "Unreachable",
    "load",
    "sender_broker",
    "trace",
]

_HOMES = {
    "AgentPipeline": "pipeline",
    "AgentpipeError": "errors",
    "Collection": "collection",
    "ConfigError": "errors",
    "Context": "context",
    "Dispatcher": "dispatcher",
    "InfraError": "errors",
    "MQFactory": "mq",
    "QueueFull": "errors",
    "Result": "task",
    "Sent": "dispatcher",
    "Settings": "settings",
    "Stream": "stream",
    "Task": "task",
    "TaskConfig": "pipeline",
    "TaskError": "errors",
    "Unreachable": "errors",
    "load": "collection",
    "sender_broker": "compile",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the command line starts in milliseconds."""
    if name in _HOMES:
        return getattr(import_module(f"agentpipe.{_HOMES[name]}"), name)
    if name in __all__:
        return import_module(f"agentpipe.{name}")
    raise AttributeError(f"module 'agentpipe' has no attribute {name!r}")
