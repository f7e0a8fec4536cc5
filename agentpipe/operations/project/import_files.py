"""Finds MCP-Universe's files and all they refer to, and the target path of each in a copy.

Copies nothing itself.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe.config.paths import THEIR_TASK_FOLDERS, is_file
from agentpipe.config.yaml_source import load_documents
from agentpipe.errors import ConfigError, Problem
from agentpipe.operations.project.folder_files import outside_link, problem_of_link
from agentpipe.operations.project.survey import OTHER, survey
from agentpipe.sending.task_files import is_document, read_document, read_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_CHARS = 400
_YAML = {".yaml", ".yml"}


@dataclass(slots=True)
class FoundFiles:
    """Sources by relative target path, and notes about files that are not copied.

    Attributes:
        root: The folder that no link may leave.
        links: Links that lead out of it.
    """

    root: Path
    files: dict[Path, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    links: set[Path] = field(default_factory=set)


def find_files(source: Path, environ: Mapping[str, str], *, run_code: bool = False) -> FoundFiles:
    """The files of ``source`` and those they refer to, at the same relative paths.

    Raises:
        ConfigError: There are none, or links lead out of their folder.
    """
    root = source if source.is_dir() else source.parent
    found = FoundFiles(root)
    for each in survey([source], environ, run_code=run_code):
        if link := outside_link(Path(each.file), root):
            found.links.add(link)
        elif each.kind != OTHER or any(note.startswith("a server list") for note in each.notes):
            path = Path(each.file)
            _take(found, path, Path(os.path.relpath(path, root)))
        elif each.problems:
            found.notes += map(str, each.problems)
    if found.links:
        raise ConfigError(map(problem_of_link, sorted(found.links)))
    if not found.files:
        nothing = f"{source}: no collection, agent, benchmark or task found"
        remedy = "give a folder or a file of MCP-Universe"
        raise ConfigError(map(Problem, [*found.notes, f"{nothing}: {remedy}"]))
    return found


def _take(found: FoundFiles, path: Path, target: Path) -> None:
    """Add a file and, recursively, what it refers to."""
    if target in found.files:
        return
    found.files[target] = path
    for written in _references(path):
        for near, place in _places(written, path, target):
            if is_file(near):
                _take_reference(found, near, place, f"{path}: {written!r:.100}")
                break


def _take_reference(found: FoundFiles, path: Path, target: Path, named: str) -> None:
    if link := outside_link(path, found.root):
        found.links.add(link)
        return
    if target.is_absolute() or ".." in target.parts:
        note = f"{named} is outside the copied folder: copy it yourself"
        found.notes.append(note)
        return
    _take(found, path, target)


def _places(written: str, path: Path, target: Path) -> Iterator[tuple[Path, Path]]:
    """The paths a reference can mean, each with the matching path in the copy.

    A file above the copied folder goes to the top of the copy, where it is also found.
    """
    folders = [*_folders_above(path, target), (Path.cwd(), Path())]
    subfolders: tuple[str, ...] = ("",)
    if path.suffix.lower() in _YAML:
        subfolders = ("", *THEIR_TASK_FOLDERS)
    for below in subfolders:
        for folder, new_folder in folders:
            new = os.path.normpath(new_folder / below / written)
            yield folder / below / written, Path(new)


def _folders_above(path: Path, target: Path) -> Iterator[tuple[Path, Path]]:
    """The folders in which a file's references are looked up; for tasks only the nearest two."""
    above = path.absolute().parents
    wanted = above if path.suffix.lower() in _YAML else above[:2]
    for folder in wanted:
        target = target.parent
        yield folder, target


def _references(path: Path) -> Iterator[str]:
    """Strings in a file that may name another file."""
    for text in dict.fromkeys(_texts(_data(path))):
        if len(text) > MAX_CHARS or "\n" in text or "\0" in text or "://" in text:
            continue
        name, colon, _ = text.partition(":")
        written = [text]
        if colon:  # module:Class or file.py:Class.
            written = [name] if name.endswith(".py") else [f"{name.replace('.', '/')}.py"]
        yield from (each for each in written if _may_be_a_file(each))


def _may_be_a_file(written: str) -> bool:
    parts = Path(written).parts
    hidden = any(part.startswith(".") and part != ".." for part in parts)
    return bool(Path(written).suffix) and not hidden and not Path(written).is_absolute()


def _data(path: Path) -> Any:
    """The content of a data file; None if unreadable, which the survey reports."""
    suffix = path.suffix.lower()
    try:
        if suffix in _YAML:
            return [document.data for document in load_documents(path)]
        if suffix == ".json" and is_document(path):
            return read_document(path).data
        if suffix in {".json", ".jsonl"}:
            with path.open("rb") as stream:
                return [entry.data for entry in read_lines(str(path), stream)]
    except (ConfigError, OSError):
        return None
    return None


def _texts(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, dict):
        for value in data.values():
            yield from _texts(value)
    elif isinstance(data, list):
        for item in data:
            yield from _texts(item)
