"""Prompt files of MCP-Universe's agents: a prompt that ends with ``.j2`` is a path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe.config.mcp_universe_names import names
from agentpipe.config.paths import find_file, folders_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from agentpipe.config.agent_config import AgentConfig


def prompt_files(config: AgentConfig) -> dict[str, str]:
    """Return the absolute path of each prompt file of a config, by its path as written.

    Files that are not found are left out: MCP-Universe's code finds those of its package.
    """
    found = {}
    for document in config.documents:
        for _, written in _prompts(document.data["spec"].get("config") or {}):
            try:
                found[written] = str(find_file(written, folders_for(config.file)))
            except FileNotFoundError:
                continue
    return found


def prompt_faults(config: Mapping[str, Any], file: Path) -> Iterator[tuple[str, str]]:
    """Yield the keys of a component's ``config`` whose prompt file is missing, and why."""
    for key, written in _prompts(config):
        try:
            find_file(written, folders_for(file))
        except FileNotFoundError as error:
            if written not in names().prompts:
                yield key, str(error)


def _prompts(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        if key.endswith("_prompt") and isinstance(value, str) and value.endswith(".j2"):
            yield key, value
