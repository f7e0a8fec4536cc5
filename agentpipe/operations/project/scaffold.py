"""Creates a project folder, with a sample agent or from MCP-Universe's files.

Existing files are never overwritten, and copied files are not changed.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.config.collection import load
from agentpipe.errors import ConfigError, Problem
from agentpipe.operations.project.collection import FILE, SAMPLE_AGENT, collection_around
from agentpipe.operations.project.import_files import find_files
from agentpipe.operations.project.readiness import PEER
from agentpipe.operations.project.survey import NO, OTHER, survey
from agentpipe.operations.project.templates import COLLECTION_YAML, GITIGNORE, README, TASKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from agentpipe.operations.project.survey import Surveyed

IGNORED = ".gitignore"
SAMPLE_NAME = "adder"
SHOWN_TASKS = 3


@dataclass(frozen=True, slots=True)
class NewProject:
    """A folder that was created.

    Attributes:
        files: Its files, relative to the folder.
        runs: How its files run, without unrelated files.
        commands: The next commands, in order.
        notes: What to know before running them.
    """

    folder: Path
    files: tuple[str, ...]
    runs: tuple[Surveyed, ...]
    commands: tuple[str, ...]
    notes: tuple[str, ...] = ()


def create_sample(folder: Path) -> NewProject:
    """Create a collection, an agent and tasks that need no server and no model.

    Raises:
        ConfigError: The folder is not empty.
    """
    commands = _commands(folder, SAMPLE_NAME, FILE, ["tasks.jsonl"])
    readme = README.format(commands="\n".join(commands[1:] if folder != Path() else commands))
    texts = {
        **SAMPLE_AGENT,
        FILE: COLLECTION_YAML,
        "tasks.jsonl": TASKS,
        "README.md": readme,
        IGNORED: GITIGNORE,
    }
    _write(folder, {name: text.encode() for name, text in texts.items()})
    return NewProject(folder, tuple(texts), (), commands)


def create_from(
    source: Path, folder: Path, environ: Mapping[str, str], *, run_code: bool = False
) -> NewProject:
    """Copy MCP-Universe's files with all they refer to, and write a collection for them.

    Raises:
        ConfigError: The source has no such files, or the folder is not empty.
    """
    found = find_files(source, environ, run_code=run_code)
    _write(folder, {str(target): path.read_bytes() for target, path in found.files.items()})
    files, notes = {str(target) for target in found.files}, [*found.notes]
    if not any(each.kind == "collection" for each in _survey(folder, environ)):
        texts = collection_around(folder, _survey(folder, environ), notes)
        if clash := files & texts.keys():
            names = ", ".join(sorted(clash))
            raise ConfigError(f"{names} would be overwritten: rename it in the source first")
        for name, text in texts.items():
            (folder / name).write_text(text)
        files |= texts.keys()
    if not (folder / IGNORED).exists():
        (folder / IGNORED).write_text(GITIGNORE)
        files.add(IGNORED)
    surveyed = _survey(folder, environ, run_code=run_code)
    runs = [each for each in surveyed if each.kind != OTHER]
    notes += _notes_on(runs)
    commands = _commands(folder, *_first_collection(folder, runs), _to_send(runs))
    return NewProject(folder, tuple(sorted(files)), tuple(runs), commands, tuple(notes))


def _survey(
    folder: Path, environ: Mapping[str, str], *, run_code: bool = False
) -> Iterator[Surveyed]:
    """Survey with paths relative to the folder."""
    for each in survey([folder], environ, run_code=run_code):
        yield replace(each, file=os.path.relpath(each.file, folder))


def _notes_on(runs: Iterable[Surveyed]) -> Iterator[str]:
    kinds = {each.runs for each in runs}
    if PEER in kinds:
        yield (
            "files that run by mcpuniverse need a Python with that package: run "
            "`make mcpuniverse`, or set AGENTPIPE_MCPUNIVERSE_PYTHON"
        )
    if NO in kinds:
        yield "some files do not run: correct them before you send"


def _first_collection(folder: Path, runs: Iterable[Surveyed]) -> tuple[str, str]:
    """The name and the file of the first collection."""
    file = next(each.file for each in runs if each.kind == "collection")
    try:
        return load(folder / file)[0].name, file
    except ConfigError:
        return "NAME", file  # The survey reports the error.


def _to_send(runs: Iterable[Surveyed]) -> list[str]:
    """The benchmarks, or else the first task files."""
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


def _write(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write all files into a new or empty folder.

    Raises:
        ConfigError: The folder is not empty, or cannot be written.
    """
    try:
        _require_empty(folder, contents)
        for name, content in contents.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as stream:
                stream.write(content)
    except OSError as error:
        problem = f"{error.strerror}: choose a folder that can be created and written"
        raise ConfigError(Problem(problem, str(error.filename or folder))) from error


def _require_empty(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Other hidden files, such as git's or an environment's, are allowed."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(Problem("not a folder: choose a new one", str(folder)))
    existing = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    in_the_way = [name for name in existing if not name.startswith(".") or name in contents]
    if in_the_way:
        shown = ", ".join(in_the_way[:3]) + (", ..." if len(in_the_way) > 3 else "")  # noqa: PLR2004 - as many as are shown
        raise ConfigError(f"{folder} contains {shown}: choose a new or empty folder")
