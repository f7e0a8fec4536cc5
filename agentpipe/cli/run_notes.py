"""Messages about runs that several commands print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.cli.known_runs import unknown_run
from agentpipe.cli.output import say
from agentpipe.errors import AgentpipeError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.settings import Settings

MAX_HASHES, HASH_CHARS = 4, 12


def no_results_of(settings: Settings, run: str) -> AgentpipeError:
    """The error for a run without results; usually its name is misspelt."""
    if sentence := unknown_run(settings, run):
        return ConfigError(sentence)
    return AgentpipeError(f"the run {run!r} has no results here: wait for its tasks")


def say_drift(run: str, configs: Mapping[str, int]) -> None:
    """Warn if a run has results of more than one config."""
    if len(configs) > 1:
        shown = [f"{name[:HASH_CHARS]} ({number:,})" for name, number in configs.items()]
        more = ", ..." if len(shown) > MAX_HASHES else ""
        say(
            f"warning: the run {run} has results of {len(configs)} configs, "
            f"{', '.join(shown[:MAX_HASHES])}{more}: workers with another file are the usual reason"
        )
