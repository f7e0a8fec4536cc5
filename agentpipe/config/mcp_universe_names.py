"""MCP-Universe's names, read from ``mcp_universe.json`` on first use.

``tests/peer/test_names.py`` compares them with the package itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_FILE = Path(__file__).with_name("mcp_universe.json")


@dataclass(frozen=True, slots=True)
class ComponentType:
    """A type of agent, workflow or model.

    Attributes:
        names: Its names in a file, the class name first.
        keys: Valid keys of its config, besides references.
        references: Keys that name other components, with the valid kinds of each.
        native: Whether our own engines implement it.
    """

    names: tuple[str, ...]
    keys: frozenset[str]
    references: Mapping[str, tuple[str, ...]]
    native: bool


@dataclass(frozen=True, slots=True)
class McpUniverseNames:
    """All names of MCP-Universe.

    Attributes:
        types: The types by kind (``agent``, ``llm``, ``workflow``), then by each of their names.
        native_agent_keys: Keys of an agent's config that our engine implements.
        native_server_keys: Keys of a server in that config that our engine implements.
        native_llm_keys: Keys of a model's config that our engine implements.
        servers: The servers of its list.
        package_servers: Those servers that its package contains.
        prompts: Prompt files in its package, by their paths from its repository's root.
        prepares: Functions that prepare a task.
        operators: Comparisons of an evaluator that need MCP-Universe's code; we implement the
            others too.
    """

    types: Mapping[str, Mapping[str, ComponentType]]
    native_agent_keys: frozenset[str]
    native_server_keys: frozenset[str]
    native_llm_keys: frozenset[str]
    servers: frozenset[str]
    package_servers: frozenset[str]
    prompts: frozenset[str]
    prepares: frozenset[str]
    operators: frozenset[str]


@cache
def names() -> McpUniverseNames:
    """Return the names, read once."""
    data = orjson.loads(_FILE.read_bytes())
    types = {kind: _by_name(data.pop(f"{kind}s")) for kind in ("agent", "llm", "workflow")}
    operators = data.pop("operators").items()
    return McpUniverseNames(
        types,
        operators=frozenset(prefix + name for prefix, each in operators for name in each),
        **{field: frozenset(found) for field, found in data.items()},
    )


def _by_name(types: Iterable[Mapping[str, Any]]) -> dict[str, ComponentType]:
    return {name: each for each in map(_type, types) for name in each.names}


def _type(data: Mapping[str, Any]) -> ComponentType:
    references = {key: tuple(kinds) for key, kinds in data.get("references", {}).items()}
    native = data.get("native", False)
    return ComponentType(tuple(data["names"]), frozenset(data["keys"]), references, native)
