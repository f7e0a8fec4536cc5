"""The documents of a config as MCP-Universe's builder can take them."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

KINDS = ("llm", "agent", "workflow")  # Benchmarks in the same file are not ours.

TEXTS = ("name", "instruction")


def read_components(text: str, prompts: dict[str, str]) -> list[dict[str, Any]]:
    """The documents that MCP-Universe's builder takes, in an order that it takes.

    ``prompts`` has the paths of prompt files by how they are written.
    """
    import yaml

    found = [each for each in yaml.safe_load_all(text) if each and each.get("kind") in KINDS]
    for component in found:
        _find_prompts(component["spec"].get("config") or {}, prompts)
    return _ordered(found)


def _find_prompts(config: dict[str, Any], prompts: dict[str, str]) -> None:
    """Prompts may be files: the parent has found them, else they may be in the package."""
    import mcpuniverse

    root = Path(mcpuniverse.__file__).parents[1]
    for name, value in config.items():
        if name.endswith("_prompt") and isinstance(value, str) and value.endswith(".j2"):
            config[name] = prompts.get(value) or str(root / value)


def _ordered(components: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Members before the workflows that name them.

    In another order, 1.1.3 sees a cycle where there is none, depending on the hash seed.
    """
    named = {each["spec"]["name"]: each for each in components}
    graph = {name: named.keys() & {*_references(each)} - {name} for name, each in named.items()}
    try:
        order = [named[name] for name in TopologicalSorter(graph).static_order()]
    except CycleError:
        return components  # The builder says so.
    return order if len(named) == len(components) else components


def _references(component: dict[str, Any]) -> list[str]:
    """What may be the names of other components; a text that only looks so does no harm."""
    config = component["spec"].get("config") or {}
    values = [value for key, value in config.items() if key not in TEXTS]
    lists = [value if isinstance(value, list) else [value] for value in values]
    return [name for each in lists for name in each if isinstance(name, str)]
