"""States: what a trainer's readers save with its checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agentpipe.errors import ConfigError


def check_states(states: Iterable[Any], group: str) -> None:
    """Refuse what is not a state of this reading group.

    Raises:
        ConfigError: The message shows it.
    """
    for state in states:
        if not _is_state(state, group):
            raise ConfigError(f"not a state of the group {group!r}: {state!r:.80}")


def _is_state(found: Any, group: str) -> bool:
    return (
        isinstance(found, Mapping)
        and (found.get("version"), found.get("group")) == (1, group)
        and isinstance(found.get("used"), list | tuple)
    )
