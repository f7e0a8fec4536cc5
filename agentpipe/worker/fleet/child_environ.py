"""The environment of the processes that end with this one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from agentpipe.connections.environment import PEER_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.settings import Settings


def child_environ(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """Return ``environ`` with these settings, and without the variables of MCP-Universe.

    URLs can contain passwords: children get them in the environment, never in argv.
    """
    child = {
        **{name: value for name, value in environ.items() if name not in PEER_VARIABLES},
        "AGENTPIPE_BROKER": settings.broker,
        "AGENTPIPE_SINK": settings.sink,
        "AGENT_COLLECTION_CONFIG_FILE": str(settings.collection_file),
        "AGENTPIPE_MAX_QUEUE_SIZE": str(settings.max_queue_size),
        "AGENTPIPE_LOG_FORMAT": settings.log_format,
        "AGENTPIPE_SUPERVISOR_PID": str(os.getpid()),
        "AGENTPIPE_DRAIN_BEFORE": str(max(0, settings.drain_before)),
    }
    if settings.slots:
        child["AGENTPIPE_SLOTS"] = str(settings.slots)
    return child
