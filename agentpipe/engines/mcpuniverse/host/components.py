"""A config's documents in a form and order that MCP-Universe's builder accepts."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

KINDS = ("llm", "agent", "workflow")  # Benchmarks in the same file are skipped.

TEXTS = ("name", "instruction")


def read_components(text: str, prompts: dict[str, str]) -> list[dict[str, Any]]:
    """The documents for MCP-Universe's builder, in an order that it accepts.

    ``prompts`` maps prompt files, as written in the config, to their paths.
    """
    import yaml

    found = [each for each in yaml.safe_load_all(text) if each and each.get("kind") in KINDS]
    for component in found:
        _find_prompts(component["spec"].get("config") or {}, prompts)
    return _ordered(found)


def _find_prompts(config: dict[str, Any], prompts: dict[str, str]) -> None:
    """Resolve prompt files: those that the parent found, else those of the package."""
    import mcpuniverse

    root = Path(mcpuniverse.__file__).parents[1]
    for name, value in config.items():
        if name.endswith("_prompt") and isinstance(value, str) and value.endswith(".j2"):
            config[name] = prompts.get(value) or str(root / value)


def _ordered(components: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort members before the workflows that name them.

    In another order, 1.1.3 reports cycles that do not exist, depending on the hash seed.
    """
    named = {each["spec"]["name"]: each for each in components}
    graph = {name: named.keys() & {*_references(each)} - {name} for name, each in named.items()}
    try:
        order = [named[name] for name in TopologicalSorter(graph).static_order()]
    except CycleError:
        return components  # The builder reports the cycle.
    return order if len(named) == len(components) else components


def _references(component: dict[str, Any]) -> list[str]:
    """Possible names of other components; a string that only looks like a name does no harm."""
    config = component["spec"].get("config") or {}
    values = [value for key, value in config.items() if key not in TEXTS]
    lists = [value if isinstance(value, list) else [value] for value in values]
    return [name for each in lists for name in each if isinstance(name, str)]
