"""Scaffold: a new project's folder, with an agent of its own or around MCP-Universe's files.

Nothing that is there is ever overwritten, and what is copied is not changed.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.config.agent_config import load_agent_config
from agentpipe.config.collection import load
from agentpipe.errors import ConfigError, Problem
from agentpipe.operations.project.import_files import gather
from agentpipe.operations.project.survey import NO, OTHER, PEER, survey

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from agentpipe.operations.project.survey import Surveyed

COLLECTION = "collection.yaml"
IGNORED = ".gitignore"
SAMPLE_NAME = "adder"
SHOWN_TASKS = 3

_AGENT_PY = '''\
"""An agent that adds up the numbers of a question. Put a model in its place."""

import re


class Adder:
    def __init__(self, unit=""):  # The other keys of its config.
        self.unit = unit

    async def execute(self, task, context):  # Or a plain def: then it runs in a thread.
        numbers = re.findall(r"-?\\d+", task.question)
        return {"sum": sum(map(int, numbers)), "unit": self.unit}
'''
_AGENT_YAML = """\
# The class, and what it is made with.
kind: agent
spec:
  name: adder
  type: python
  config: {class: "agent.py:Adder", unit: apples}
"""
_COLLECTION_YAML = """\
# agentpipe check collection.yaml
kind: collection
spec:
  name: adder
  config: ./agent.yaml
  number: 2             # agents; each has a queue of its own
  max_queue_size: 100   # tasks that may wait for each
  time_limit: 60        # seconds a task may take
"""
_TASKS = """\
{"task_id": "add-1", "question": "3 apples and 4 apples?", "evaluators": \
[{"func": "json -> get(sum)", "op": "=", "value": 7}]}
{"task_id": "add-2", "question": "10 apples and -2 apples?", "evaluators": \
[{"func": "json -> get(sum)", "op": "=", "value": 8}]}
{"task_id": "add-3", "question": "No apples at all?", "evaluators": \
[{"func": "json -> get(sum)", "op": "=", "value": 0}]}
"""
_README = """\
# A project for agentpipe

`agent.py` is the agent, `agent.yaml` its config, `collection.yaml` says how many of it run and
within which limits. `tasks.jsonl` holds a task a line, with what marks its answer.

```sh
{commands}
```

`agentpipe doctor` looks at this machine and the servers, and says what to do.
"""
_GITIGNORE = ".agentpipe/\n__pycache__/\n"


@dataclass(frozen=True, slots=True)
class Made:
    """A folder that was made.

    Attributes:
        files: What is in it now, from there.
        runs: How each of them runs, but for those that are of no kind of ours.
        commands: What to do next, in order.
        notes: What is to be known before that.
    """

    folder: Path
    files: tuple[str, ...]
    runs: tuple[Surveyed, ...]
    commands: tuple[str, ...]
    notes: tuple[str, ...] = ()


def make_sample(folder: Path) -> Made:
    """A collection, an agent and tasks that run at once, without a server or a model.

    Raises:
        ConfigError: Something is there already.
    """
    commands = _commands(folder, SAMPLE_NAME, COLLECTION, ["tasks.jsonl"])
    readme = _README.format(commands="\n".join(commands[1:] if folder != Path() else commands))
    texts = {
        **_sample_agent(),
        COLLECTION: _COLLECTION_YAML,
        "tasks.jsonl": _TASKS,
        "README.md": readme,
        IGNORED: _GITIGNORE,
    }
    _write(folder, {name: text.encode() for name, text in texts.items()})
    return Made(folder, tuple(texts), (), commands)


def make_from(source: Path, folder: Path, environ: Mapping[str, str]) -> Made:
    """MCP-Universe's files with all they refer to, and a collection around them.

    Raises:
        ConfigError: There is nothing of theirs, or something is in the way.
    """
    gathered = gather(source, environ)
    _write(folder, {str(target): path.read_bytes() for target, path in gathered.files.items()})
    made = {str(target) for target in gathered.files}
    notes = [*gathered.notes]
    if not any(each.kind == "collection" for each in _look(folder, environ)):
        texts = _collection_around(folder, environ, notes)
        if clash := made & texts.keys():
            raise ConfigError(f"{', '.join(sorted(clash))} is one of theirs: rename it first")
        for name, text in texts.items():
            (folder / name).write_text(text)
        made |= texts.keys()
    if not (folder / IGNORED).exists():
        (folder / IGNORED).write_text(_GITIGNORE)
        made.add(IGNORED)
    runs = [each for each in _look(folder, environ) if each.kind != OTHER]
    notes += _notes_on(runs)
    commands = _commands(folder, *_first_collection(folder, runs), _to_send(runs))
    return Made(folder, tuple(sorted(made)), tuple(runs), commands, tuple(notes))


# The collection.


def _collection_around(
    folder: Path, environ: Mapping[str, str], notes: list[str]
) -> dict[str, str]:
    """A collection of each agent config that can be read; without one, of an agent of ours."""
    documents: dict[str, str] = {}
    for each in _look(folder, environ):
        if each.kind not in ("agent", "benchmark"):
            continue
        try:
            name = load_agent_config(folder / each.file).name
        except ConfigError as error:
            if each.kind == "agent":  # A benchmark may stand alone.
                notes.append(f"left out of the collection: {error}")
            continue
        if each.kind == "agent" and each.runs == NO:
            notes.append(f"{each.file} is left out of the collection, since it does not run")
            continue
        name = _unique(_name_of(name), documents)
        documents[name] = _document(name, each.file)
    if documents:
        return {
            COLLECTION: "# agentpipe check collection.yaml\n" + "---\n".join(documents.values())
        }
    notes.append("there is no agent among them: agent.py is a beginning, write yours in its place")
    return {COLLECTION: _COLLECTION_YAML, **_sample_agent()}


def _sample_agent() -> dict[str, str]:
    return {"agent.yaml": _AGENT_YAML, "agent.py": _AGENT_PY}


def _document(name: str, file: str) -> str:
    path = "'" + f"./{file}".replace("'", "''") + "'"
    return f"kind: collection\nspec:\n  name: {name}\n  config: {path}\n  number: 1\n"


def _name_of(text: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", text)[:100].strip("-") or "agent"
    return name if re.match(r"[A-Za-z_]", name) else f"agent-{name}"


def _unique(name: str, taken: Mapping[str, str]) -> str:
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    return found


# What is told.


def _look(folder: Path, environ: Mapping[str, str]) -> Iterator[Surveyed]:
    """The folder's files with their places in it."""
    for each in survey([folder], environ):
        yield replace(each, file=os.path.relpath(each.file, folder))


def _notes_on(runs: Iterable[Surveyed]) -> Iterator[str]:
    kinds = {each.runs for each in runs}
    if PEER in kinds:
        yield (
            "what runs by mcpuniverse wants a Python with that package: run `make mcpuniverse`, or "
            "name one in AGENTPIPE_MCPUNIVERSE_PYTHON"
        )
    if NO in kinds:
        yield "what does not run is told with its reasons: correct it before you send"


def _first_collection(folder: Path, runs: Iterable[Surveyed]) -> tuple[str, str]:
    """Its name and its file."""
    file = next(each.file for each in runs if each.kind == "collection")
    try:
        return load(folder / file)[0].name, file
    except ConfigError:
        return "NAME", file  # What is wrong is told above.


def _to_send(runs: Iterable[Surveyed]) -> list[str]:
    """The benchmarks, or else the first of the task files."""
    by_kind = {
        kind: [each.file for each in runs if each.kind in kinds and each.runs != NO]
        for kind, kinds in (("benchmark", ("benchmark",)), ("task", ("task", "tasks")))
    }
    return (by_kind["benchmark"] or by_kind["task"])[:SHOWN_TASKS]


def _commands(folder: Path, name: str, collection: str, tasks: Iterable[str]) -> tuple[str, ...]:
    where, file = shlex.quote(str(folder)), shlex.quote(collection)
    return (
        *([f"cd {where}"] if folder != Path() else []),
        f"agentpipe check {file}",
        *(f"agentpipe send {name} --file {shlex.quote(each)} -c {file}" for each in tasks),
        f"agentpipe work --burst -c {file}",
        "agentpipe tail --from beginning --timeout 0",
    )


# Writing.


def _write(folder: Path, contents: Mapping[str, bytes]) -> None:
    """All of it into a folder that is new or empty.

    Raises:
        ConfigError: It is not, or cannot be written.
    """
    try:
        _refuse_what_is_there(folder, contents)
        for name, content in contents.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as stream:
                stream.write(content)
    except OSError as error:
        place = error.filename or str(folder)
        raise ConfigError(
            Problem(f"{error.strerror}: name a folder that can be made and written", str(place))
        ) from error


def _refuse_what_is_there(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Hidden files, as of git or an environment, may be there already."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(Problem("this is no folder: name a new one", str(folder)))
    there = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    in_the_way = [name for name in there if not name.startswith(".") or name in contents]
    if in_the_way:
        shown = ", ".join(in_the_way[:3]) + (", ..." if len(in_the_way) > 3 else "")  # noqa: PLR2004
        raise ConfigError(f"{folder} holds {shown} already: name a new or an empty folder")
