"""Agent configs: a file's entry point, and the config that its engine receives.

The engine itself checks the keys of its ``config``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe.config.documents import problem_at, raise_problems, read_documents
from agentpipe.config.paths import shown_path
from agentpipe.config.schema import BENCHMARK, AgentFileDocument
from agentpipe.config.values import shown
from agentpipe.config.yaml_source import kind_in
from agentpipe.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agentpipe.config.documents import CheckedDocument
    from agentpipe.config.yaml_source import Document, KeyPath

_PLACE = re.compile(
    r"(?P<key>\w+)(?:\[(?P<index>\d+)\])?: |unknown key '(?P<unknown>[^']*)' in config"
)
_NOTHING = "nothing to run: add a document of kind agent"


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """The entry point of an agent config, and the documents that it can refer to.

    Attributes:
        config: For the engine, unchecked.
        line: The first line of the entry point's document.
        documents: All documents of the file, including the entry point.
    """

    type: str
    name: str
    config: Mapping[str, Any] = field(repr=False)
    file: Path
    line: int
    documents: tuple[Document, ...]

    @property
    def search(self) -> tuple[Path, ...]:
        """Folders in which references to code are looked up."""
        return search_folders(self.file)

    def problem(self, message: str, *path: str) -> Problem:
        """Return a problem at ``path``, or at the ``config`` key that the message starts with."""
        place: KeyPath = path or ("spec", "config", *_place_in(message))
        return Problem(message, shown_path(self.file), self._line_of(place))

    def _line_of(self, path: KeyPath) -> int:
        """Return the line in the entry point, unless only a model has the key."""
        own = [each for each in self.documents if each.line == self.line]
        models = [each for each in self.documents if kind_in(each) == "llm"]
        having = [each for each in (*own, *models) if path[:3] in each.lines]
        return (*having, *own)[0].line_of(path)


def search_folders(config_file: Path) -> tuple[Path, ...]:
    """Return the folders searched for code that an agent config or its tasks refer to."""
    return (Path.cwd(), config_file.parent, config_file.parent.parent)


def _place_in(message: str) -> KeyPath:
    """Parse the part of a config in ``servers[1]: ...`` or ``unknown key 'model' in config``."""
    match = _PLACE.match(message)
    if match is None:
        return ()
    index = () if match["index"] is None else (int(match["index"]),)
    return (match["key"] or match["unknown"], *index)


def load_agent_config(path: Path | str, name: str = "") -> AgentConfig:
    """Read an agent config and find its entry point; benchmarks in it are skipped.

    The entry point is the document called ``name``. Without a name, it is the one with ``is_main:
    true``, else the only workflow, else the only agent.

    Raises:
        ConfigError: Lists every problem of the file, in file order.
    """
    checked, problems = read_documents(Path(path), AgentFileDocument(), _is_wanted)
    problems += _wrong_marks(checked)
    raise_problems(problems)
    if not checked:
        raise ConfigError(Problem(_NOTHING, shown_path(Path(path)), 1))
    named = [each for each in checked if each[1]["name"] == name]
    document, spec = named[0] if named else _entry_point(checked)
    return AgentConfig(
        type=spec["type"],
        name=spec["name"],
        config=spec.get("config", {}),
        file=Path(path).absolute(),
        line=document.line,
        documents=tuple(document for document, _ in checked),
    )


def _is_wanted(document: Document) -> bool:
    return kind_in(document) != BENCHMARK


def _entry_point(checked: list[CheckedDocument]) -> CheckedDocument:
    runnable = [each for each in checked if _kind(each) != "llm"]
    marked = [(document, spec) for document, spec in runnable if spec.get("is_main")]
    workflows = [each for each in runnable if _kind(each) == "workflow"]
    agents = [each for each in runnable if _kind(each) == "agent"]
    for candidates in (marked, workflows, agents):
        if len(candidates) == 1:
            return candidates[0]
    if not runnable:
        problem = problem_at(checked[0][0], (), _NOTHING)
    else:
        names = ", ".join(shown(spec["name"]) for _, spec in runnable)
        message = f"which of {names} is to run? Write `is_main: true` into the spec of one"
        problem = problem_at(runnable[0][0], (), message)
    raise ConfigError(problem)


def _wrong_marks(checked: list[CheckedDocument]) -> Iterator[Problem]:
    marked = [each for each in checked if each[1].get("is_main")]
    for document, _ in (each for each in marked if _kind(each) == "llm"):
        message = "an llm cannot run on its own: mark the agent or workflow that uses it"
        yield problem_at(document, ("spec", "is_main"), message)
    for document, _ in marked[1:]:
        message = f"the document in line {marked[0][0].line} has is_main already: keep one"
        yield problem_at(document, ("spec", "is_main"), message)


def _kind(document: CheckedDocument) -> Any:
    return document[0].data.get("kind")
