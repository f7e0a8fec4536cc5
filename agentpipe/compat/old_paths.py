"""Old import paths of public names: ``from agentpipe.task import Task`` goes on working."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

MOVED = {
    "agentpipe.agent": "agentpipe.engines.base",
    "agentpipe.agent_config": "agentpipe.config.agent_config",
    "agentpipe.brokers.store": "agentpipe.brokers.base",
    "agentpipe.collection": "agentpipe.config.collection",
    "agentpipe.compile": "agentpipe.sending.broker",
    "agentpipe.context": "agentpipe.core.context",
    "agentpipe.dataset": "agentpipe.sinks.dataset",
    "agentpipe.dispatcher": "agentpipe.sending.dispatcher",
    "agentpipe.mq": "agentpipe.compat.queues",
    "agentpipe.pipeline": "agentpipe.compat.pipeline",
    "agentpipe.sinks.sink": "agentpipe.sinks.base",
    "agentpipe.stream": "agentpipe.sinks.stream",
    "agentpipe.task": "agentpipe.core.task",
    "agentpipe.trace": "agentpipe.core.trace",
}


class OldPaths(MetaPathFinder, Loader):
    """Gives the module of the new path under the old one as well: one module, two names."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - the import system's signature
        target: ModuleType | None = None,  # noqa: ARG002 - likewise
    ) -> ModuleSpec | None:
        """Claim the old paths only."""
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        """Put the moved module in place of the empty one, as the import system allows."""
        sys.modules[module.__name__] = import_module(MOVED[module.__name__])
