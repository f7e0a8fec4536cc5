"""Agent configs: which of a file's components is to run, and what its engine gets to see.

No engine's own keys are judged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe.config.documents import problem_at, raise_problems, read_components
from agentpipe.config.schema import BENCHMARK, ComponentDocument, shown
from agentpipe.config.yaml_source import kind_in
from agentpipe.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agentpipe.config.documents import Component
    from agentpipe.config.yaml_source import Document

_NOTHING = "nothing to run: add a document of kind agent"


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """The entry point of an agent config, and the documents it may refer to.

    Attributes:
        config: The engine's business, unchecked.
        line: Where the entry point's document begins.
        documents: All of the file, the entry point among them.
    """

    type: str
    name: str
    config: Mapping[str, Any] = field(repr=False)
    file: Path
    line: int
    documents: tuple[Document, ...]

    @property
    def search(self) -> tuple[Path, ...]:
        """Folders in which a reference to code is looked up."""
        folder = self.file.parent
        return (Path.cwd(), folder, folder.parent)


def load_agent_config(path: Path | str, name: str = "") -> AgentConfig:
    """Read an agent config and find its entry point; benchmarks in it are passed over.

    That is the component called ``name``; without one it is that with ``is_main: true``, else the
    only workflow, else the only agent.

    Raises:
        ConfigError: With every problem of the file, in its order.
    """
    components, problems = read_components(Path(path), ComponentDocument(), _is_component)
    problems += _wrong_marks(components)
    raise_problems(problems)
    if not components:
        raise ConfigError(Problem(_NOTHING, str(path), 1))
    named = [component for component in components if component[1]["name"] == name]
    document, spec = named[0] if named else _entry_point(components)
    return AgentConfig(
        type=spec["type"],
        name=spec["name"],
        config=spec.get("config", {}),
        file=Path(path).absolute(),
        line=document.line,
        documents=tuple(document for document, _ in components),
    )


def _is_component(document: Document) -> bool:
    return kind_in(document) != BENCHMARK


def _entry_point(components: list[Component]) -> Component:
    runnable = [component for component in components if _kind(component) != "llm"]
    marked = [(document, spec) for document, spec in runnable if spec.get("is_main")]
    workflows = [component for component in runnable if _kind(component) == "workflow"]
    agents = [component for component in runnable if _kind(component) == "agent"]
    for candidates in (marked, workflows, agents):
        if len(candidates) == 1:
            return candidates[0]
    if not runnable:
        problem = problem_at(components[0][0], (), _NOTHING)
    else:
        names = ", ".join(shown(spec["name"]) for _, spec in runnable)
        message = f"which of {names} is to run? Write `is_main: true` into the spec of one"
        problem = problem_at(runnable[0][0], (), message)
    raise ConfigError(problem)


def _wrong_marks(components: list[Component]) -> Iterator[Problem]:
    marked = [component for component in components if component[1].get("is_main")]
    for document, _ in (component for component in marked if _kind(component) == "llm"):
        message = "an llm cannot run by itself: mark the agent or workflow that uses it"
        yield problem_at(document, ("spec", "is_main"), message)
    for document, _ in marked[1:]:
        message = f"the document in line {marked[0][0].line} is marked already: keep one mark"
        yield problem_at(document, ("spec", "is_main"), message)


def _kind(component: Component) -> Any:
    return component[0].data.get("kind")
