"""Where a process read a collection; stored with the queues that it declares."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from agentpipe.brokers.records import Source
from agentpipe.core.text import encodable

if TYPE_CHECKING:
    from agentpipe.config.collection import Collection


def source_of(collection: Collection, *, serves: bool = False) -> Source | None:
    """The source of a collection read from a file; None without a file, or if it is gone."""
    try:
        edited_us = collection.file.stat().st_mtime_ns // 1000
        agent_us = collection.config_file.stat().st_mtime_ns // 1000
    except OSError:
        return None
    place = f"{socket.gethostname()}:{encodable(str(collection.file))}"
    return Source(collection.fingerprint, place, edited_us, max(edited_us, agent_us), serves)
