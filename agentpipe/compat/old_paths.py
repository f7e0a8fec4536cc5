"""Old import paths of public names: ``from agentpipe.task import Task`` still works."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from types import ModuleType

# Each old module, and the modules that now have its public names.
MOVED: dict[str, tuple[str, ...]] = {
    "agentpipe.agent": ("agentpipe.engines.base",),
    "agentpipe.agent_config": ("agentpipe.config.agent_config",),
    "agentpipe.brokers.store": (
        "agentpipe.brokers.base",
        "agentpipe.brokers.records",
        "agentpipe.brokers.statistics",
        "agentpipe.brokers.dead_letter",
        "agentpipe.brokers.capabilities",
    ),
    "agentpipe.collection": ("agentpipe.config.collection",),
    "agentpipe.compile": ("agentpipe.sending.broker",),
    "agentpipe.context": ("agentpipe.core.context",),
    "agentpipe.dataset": ("agentpipe.training.dataset",),
    "agentpipe.dispatcher": ("agentpipe.sending.dispatcher",),
    "agentpipe.mq": ("agentpipe.compat.queues",),
    "agentpipe.pipeline": ("agentpipe.compat.pipeline",),
    "agentpipe.sinks.dataset": ("agentpipe.training.dataset",),
    "agentpipe.sinks.sink": ("agentpipe.sinks.base",),
    "agentpipe.stream": ("agentpipe.sinks.stream",),
    "agentpipe.task": ("agentpipe.core.task", "agentpipe.core.result"),
    "agentpipe.trace": ("agentpipe.core.trace",),
}


class OldPaths:
    """Gives each old path a module that looks up its names in the new modules.

    It does not inherit from ``importlib.abc``, whose import would slow down every command.
    """

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - the import system's signature
        target: ModuleType | None = None,  # noqa: ARG002 - the import system's signature
    ) -> ModuleSpec | None:
        """Return a spec for old paths only."""
        return ModuleSpec(fullname, cast("Loader", self)) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> None:
        """Return None: the import system creates the module."""

    def exec_module(self, module: ModuleType) -> None:
        """Import the new modules now, so that errors such as a missing extra are raised at once."""
        targets = [import_module(name) for name in MOVED[module.__name__]]
        module.__dict__["__getattr__"] = partial(_look_up, module.__name__, targets)


def _look_up(old: str, targets: Sequence[ModuleType], name: str) -> Any:
    for target in targets:
        if hasattr(target, name):
            return getattr(target, name)
    raise AttributeError(f"module {old!r} has no attribute {name!r}")
