"""Run AI agents by the thousand and deliver every result in one stream."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from agentpipe.compat.old_paths import OldPaths

if TYPE_CHECKING:
    from agentpipe.archive import Archive
    from agentpipe.compat.pipeline import AgentPipeline, TaskConfig
    from agentpipe.compat.queues import MQFactory
    from agentpipe.config.collection import Collection, load
    from agentpipe.core import trace
    from agentpipe.core.context import Context
    from agentpipe.core.result import Result
    from agentpipe.core.task import Task
    from agentpipe.errors import (
        AgentpipeError,
        ConfigError,
        InfraError,
        NoResult,
        QueueFull,
        ResultTimeout,
        StoreError,
        TaskError,
        Unreachable,
    )
    from agentpipe.sending.broker import sender_broker
    from agentpipe.sending.dispatcher import Dispatcher
    from agentpipe.sending.handle import Handle
    from agentpipe.sending.sent import Sent
    from agentpipe.settings import Settings
    from agentpipe.sinks.stream import Stream
    from agentpipe.training.group_stream import GroupStream
    from agentpipe.training.policy import Policy
    from agentpipe.training.rollout_batch import RolloutBatch
    from agentpipe.training.rollout_group import RolloutGroup
    from agentpipe.training.rollout_loop import Rollouts

__version__ = "0.1.0"

__all__ = [
    "AgentPipeline",
    "AgentpipeError",
    "Archive",
    "Collection",
    "ConfigError",
    "Context",
    "Dispatcher",
    "GroupStream",
    "Handle",
    "InfraError",
    "MQFactory",
    "NoResult",
    "Policy",
    "QueueFull",
    "Result",
    "ResultTimeout",
    "RolloutBatch",
    "RolloutGroup",
    "Rollouts",
    "Sent",
    "Settings",
    "StoreError",
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
    "AgentPipeline": "compat.pipeline",
    "AgentpipeError": "errors",
    "Archive": "archive",
    "Collection": "config.collection",
    "ConfigError": "errors",
    "Context": "core.context",
    "Dispatcher": "sending.dispatcher",
    "GroupStream": "training.group_stream",
    "Handle": "sending.handle",
    "InfraError": "errors",
    "MQFactory": "compat.queues",
    "NoResult": "errors",
    "Policy": "training.policy",
    "QueueFull": "errors",
    "Result": "core.result",
    "ResultTimeout": "errors",
    "RolloutBatch": "training.rollout_batch",
    "RolloutGroup": "training.rollout_group",
    "Rollouts": "training.rollout_loop",
    "Sent": "sending.sent",
    "Settings": "settings",
    "StoreError": "errors",
    "Stream": "sinks.stream",
    "Task": "core.task",
    "TaskConfig": "compat.pipeline",
    "TaskError": "errors",
    "Unreachable": "errors",
    "load": "config.collection",
    "sender_broker": "sending.broker",
}

# Appended last, so it is used only for modules that no other finder knows.
sys.meta_path.append(OldPaths())


def __getattr__(name: str) -> Any:
    """Import a public name on first use, to keep the command line's start-up fast."""
    if name == "trace":
        return import_module("agentpipe.core.trace")
    if name in _HOMES:
        return getattr(import_module(f"agentpipe.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'agentpipe' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Public names, for ``help`` and notebook completion."""
    return ["__version__", *__all__]
