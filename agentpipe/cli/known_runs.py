"""Refuses unknown run names, which are usually misspelt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.cli.embedded_files import has_tasks
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from agentpipe.settings import Settings


def refuse_unknown_run(settings: Settings, run: str | None) -> None:
    """Refuse a run without a record, task, dead letter or result, if all of these can be read.

    Raises:
        ConfigError: The run is unknown; the message suggests the nearest name.
    """
    if sentence := unknown_run(settings, run):
        raise ConfigError(sentence)


def unknown_run(settings: Settings, run: str | None) -> str:
    """Why the run is unknown; empty if it is known, or if that cannot be determined."""
    if run is None:
        return ""
    from agentpipe.operations.known_runs import why_unknown

    return why_unknown(run, settings, ask_broker=has_tasks(settings))
