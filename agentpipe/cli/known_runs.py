"""Refuses the name of a run that is nowhere: most likely it is misspelt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.cli.home import has_tasks
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from agentpipe.settings import Settings


def refuse_unknown_run(settings: Settings, run: str | None) -> None:
    """Refuse a run without record, task, dead letter or result, as far as all can be asked.

    Raises:
        ConfigError: With the nearest name.
    """
    if sentence := unknown_run(settings, run):
        raise ConfigError(sentence)


def unknown_run(settings: Settings, run: str | None) -> str:
    """Why it is unknown; empty where it is known, or where that cannot be found out."""
    if run is None:
        return ""
    from agentpipe.operations.known_runs import why_unknown

    return why_unknown(run, settings, ask_broker=has_tasks(settings))
