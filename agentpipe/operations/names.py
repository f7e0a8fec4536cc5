"""Names: checks the names of collections and agents that an operator types."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.core.did_you_mean import unknown
from agentpipe.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


def refuse_unknown(noun: str, names: Iterable[str], known: Collection[str]) -> None:
    """Check that all names are known.

    Raises:
        ConfigError: With one problem per unknown name.
    """
    problems = [
        Problem(unknown(noun, name, sorted(known), "on this broker", "see `agentpipe status`"))
        for name in names
        if name not in known
    ]
    if problems:
        raise ConfigError(problems)
