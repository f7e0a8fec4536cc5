"""Writes a collection around the agent configs of a folder."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from agentpipe.config.agent_config import load_agent_config
from agentpipe.errors import ConfigError
from agentpipe.operations.project.survey import NO
from agentpipe.operations.project.templates import AGENT_PY, AGENT_YAML, COLLECTION_YAML

if TYPE_CHECKING:
    from collections.abc import Container, Iterable
    from pathlib import Path

    from agentpipe.operations.project.survey import Surveyed

FILE = "collection.yaml"
SAMPLE_AGENT = {"agent.yaml": AGENT_YAML, "agent.py": AGENT_PY}


def collection_around(
    folder: Path, surveyed: Iterable[Surveyed], notes: list[str]
) -> dict[str, str]:
    """New files by name: a collection of each runnable agent, or else a sample agent's."""
    documents: dict[str, str] = {}
    for each in surveyed:
        if each.kind not in ("agent", "benchmark"):
            continue
        try:
            name = load_agent_config(folder / each.file).name
        except ConfigError as error:
            if each.kind == "agent":  # A benchmark can exist without an agent.
                notes.append(f"not in the collection: {error}")
            continue
        if each.kind == "agent" and each.runs == NO:
            notes.append(f"not in the collection, since it does not run: {each.file}")
            continue
        name = _unique(_name_of(name), documents)
        documents[name] = _document(name, each.file)
    if documents:
        return {FILE: "# agentpipe check collection.yaml\n" + "---\n".join(documents.values())}
    notes.append("no agent found: agent.py is a sample, replace it by yours")
    return {FILE: COLLECTION_YAML, **SAMPLE_AGENT}


def _document(name: str, file: str) -> str:
    path = "'" + f"./{file}".replace("'", "''") + "'"
    return f"kind: collection\nspec:\n  name: {name}\n  config: {path}\n  number: 1\n"


def _name_of(text: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", text)[:100].strip("-") or "agent"
    return name if re.match(r"[A-Za-z_]", name) else f"agent-{name}"


def _unique(name: str, taken: Container[str]) -> str:
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    return found
