"""FunctionScope: which functions the evaluators of a collection's tasks can use.

A task is untrusted data. It chooses among the functions in the collection's own folder and in the
modules that the collection lists. Any other reference is rejected before any import.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from agentpipe.config import paths
from agentpipe.config.imports import file_below, locate, source_of, split
from agentpipe.core.did_you_mean import NO_SIMILAR_NAME, did_you_mean
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Hidden folders, and those of installed packages: not meant for tasks.
_FOREIGN = re.compile(r"\..*|site-packages|dist-packages|node_modules|python\d.*", re.IGNORECASE)
_VIRTUAL_ENVIRONMENT = "pyvenv.cfg"


@dataclass(frozen=True, slots=True)
class FunctionScope:
    """Where the functions that evaluators name can come from.

    Attributes:
        folder: The collection's own folder; files in and below it are offered.
        modules: Further modules that the collection lists.
        search: Folders searched for those modules, before ``sys.path``.
        is_here: Whether the files are on this machine; if not, only names are checked.
    """

    folder: Path
    modules: tuple[str, ...] = ()
    search: tuple[Path, ...] = ()
    is_here: bool = True

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> FunctionScope:
        """Read the output of ``to_json``."""
        search = tuple(map(paths.from_json, fields["search"]))
        return cls(paths.from_json(fields["folder"]), tuple(fields["modules"]), search)

    def to_json(self) -> dict[str, Any]:
        """Serialize the scope for another process on this machine."""
        search = list(map(paths.to_json, self.search))
        return {
            "folder": paths.to_json(self.folder),
            "modules": list(self.modules),
            "search": search,
        }

    def file_of(self, reference: str) -> Path | None:
        """Return the file that defines an offered function; None for a module without source.

        Raises:
            ConfigError: The reference is malformed, or names a function that is not offered.
        """
        if flaw := flaw_of(reference, self.modules):
            raise ConfigError(flaw)
        name, _ = split(reference)
        if name in self.modules:
            return source_of(reference, self.search)
        root = self.folder.resolve()
        file = file_below(name, root)
        if file is None:
            raise ConfigError(self._missing(reference, name, root))
        if not _is_below(file, root):
            raise ConfigError(
                f"{reference!r}: {file} is not among the files of the collection's folder {root}: "
                "put the function into a file there"
            )
        return file

    def has(self, reference: Any) -> bool:
        """Whether ``reference`` is valid, and its module is offered and has source."""
        try:
            return ":" in reference and self.file_of(reference) is not None
        except (ConfigError, TypeError):
            return False

    def offers_import(self, module: str) -> bool:
        """Whether functions that a module imports from ``module`` are offered as its own."""
        if any(_top(module) == _top(each) for each in self.modules):
            return True
        root = self.folder.resolve()
        file = file_below(module, root)
        return file is not None and _is_below(file, root)

    def locate(self, reference: str, *, defined: bool) -> Any:
        """Import the module and return the function.

        Args:
            reference: ``module:function``, or ``file.py:function``.
            defined: Whether its file defines it by ``def`` or ``class``. If not, it must come from
                offered code: a module can import functions that tasks cannot call.

        Raises:
            ConfigError: It is not offered, or its module fails to import.
        """
        self.file_of(reference)
        name, attribute = split(reference)
        named = name in self.modules
        found = locate(reference, self.search if named else (self.folder,))
        if not (defined or self._is_offered(found)):
            raise ConfigError(
                f"{reference!r}: {name} has {attribute!r} from elsewhere: "
                "define a function there that calls it"
            )
        return found

    def _is_offered(self, value: Any) -> bool:
        name = _defining_module(value)
        if name is None or _top(name) in sys.stdlib_module_names:
            return False
        if any(_top(name) == _top(each) for each in self.modules):
            return True
        file = getattr(sys.modules.get(name), "__file__", None)
        return file is not None and _is_below(Path(file).resolve(), self.folder.resolve())

    def _missing(self, reference: str, name: str, root: Path) -> str:
        stems = [*(file.stem for file in root.glob("*.py")), *self.modules]
        what = "file" if name.endswith(".py") else "module"
        hint = did_you_mean(name, stems, NO_SIMILAR_NAME)
        named = "" if what == "file" else f", or name it in the collection: `evaluators: [{name}]`"
        return (
            f"{reference!r}: no {what} {name!r} in the collection's folder {root}: {hint}; "
            f"put it there{named}"
        )


def flaw_of(reference: str, modules: tuple[str, ...] = ()) -> str:
    """Return why no collection offers what ``reference`` names; empty if one can."""
    try:
        name, attribute = split(reference)
    except ConfigError as error:
        return str(error)
    if "." in attribute:
        return f"{reference!r}: name a function at the top level of its module, without a dot"
    if name in modules:
        return _flaw_of_names(reference, name, attribute)
    return _flaw_of_place(reference, name) or _flaw_of_names(reference, name, attribute)


def _flaw_of_names(reference: str, name: str, attribute: str) -> str:
    private = [part for part in (*_parts(name), attribute) if part.startswith("_")]
    if private:
        return f"{reference!r}: {private[0]!r} starts with _ and is private: rename it"
    return ""


def _flaw_of_place(reference: str, name: str) -> str:
    if not name.endswith(".py"):
        return _flaw_of_standard(reference, _top(name))
    if "://" in name or name.startswith("file:"):
        return f"{reference!r}: write a path below the collection's folder, no URL"
    if PurePath(name).is_absolute() or ".." in _parts(name) or name.startswith("~"):
        return f"{reference!r}: write a path below the collection's folder, without `..`"
    return ""


def _flaw_of_standard(reference: str, top: str) -> str:
    if top not in sys.stdlib_module_names:
        return ""
    return (
        f"{reference!r}: {top} is of Python's standard library: write a function of yours that "
        "calls it, into a file of the collection's folder"
    )


def _parts(name: str) -> tuple[str, ...]:
    return PurePath(name).parts if name.endswith(".py") else tuple(name.split("."))


def _top(module: str) -> str:
    return module.partition(".")[0]


def _is_below(file: Path, root: Path) -> bool:
    """Whether a file, with links resolved, is the user's own file below ``root``."""
    if root not in file.parents:
        return False
    folders = file.relative_to(root).parts[:-1]
    if any(map(_FOREIGN.fullmatch, folders)) or file.name.startswith("."):
        return False
    return not any((each / _VIRTUAL_ENVIRONMENT).exists() for each in _between(file, root))


def _between(file: Path, root: Path) -> Iterator[Path]:
    yield from (each for each in file.parents if root in each.parents)


def _defining_module(value: Any) -> str | None:
    """Return the module whose code a callable runs; None if unknown."""
    while isinstance(value, functools.partial):
        value = value.func
    try:
        name = getattr(inspect.unwrap(value), "__module__", None)
    except ValueError:  # It wraps itself.
        return None
    return name if isinstance(name, str) else None
