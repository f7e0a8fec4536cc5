"""Resolve references in configs: ``module:Name`` or ``path/to/file.py:Name``.

This imports the user's module and returns the object, unchecked. Within a process, a module name
stands for one file: a second file of the same name is rejected.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.machinery
import importlib.util
import os
import sys
import threading
import traceback
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe.config.paths import is_file
from agentpipe.core.did_you_mean import NO_SIMILAR_NAME, did_you_mean
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

_MAX_TEXT = 2000

# Python locks each module, but not our checks of sys.modules and sys.path before an import.
_LOCK = threading.RLock()


def locate(reference: str, search: Sequence[Path]) -> Any:
    """Import the module that ``reference`` names and return the attribute after the colon.

    A module is searched in the ``search`` folders, in order, then on ``sys.path``. Its folder is
    appended to ``sys.path`` and stays there, so that it can import its neighbours. A path is looked
    up only in the ``search`` folders, and the file's own folder is appended. Thread-safe; blocks
    while the user's module is imported.

    Raises:
        ConfigError: The reference is malformed, its module is missing, fails to import or lacks the
            attribute, or two files claim one module name.
    """
    module_name, attribute = split(reference)
    folders = list(dict.fromkeys(Path(folder).resolve() for folder in search))
    with _LOCK:
        if _is_path(module_name):
            module = _from_path(reference, module_name, folders)
        else:
            module = _from_name(reference, module_name, folders)
        return _attribute(reference, module, attribute)


def source_of(reference: str, search: Sequence[Path]) -> Path | None:
    """Return the file that ``locate`` would import, without importing anything.

    None for a module without source: built in, compiled, or found by a custom importer.

    Raises:
        ConfigError: The reference is malformed, or its module is missing.
    """
    name, _ = split(reference)
    folders = list(dict.fromkeys(Path(folder).resolve() for folder in search))
    if _is_path(name):
        return _file_in(reference, name, folders)
    for folder in folders:
        if file := _file_of(name, folder):
            _refuse_standard(name.partition(".")[0], folder)
            return file
    spec = _spec_of(name)
    if spec is None and name not in sys.modules:
        raise _missing(reference, name, folders)
    file = Path(spec.origin) if spec and spec.has_location and spec.origin else None
    return file if file and file.suffix == ".py" and is_file(file) else None


def _spec_of(name: str) -> importlib.machinery.ModuleSpec | None:
    """Do what ``importlib.util.find_spec`` does, but without importing parent packages."""
    top, *parts = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
        for count in range(1, len(parts) + 1):
            if spec is None or spec.submodule_search_locations is None:
                return None
            inner = ".".join([top, *parts[:count]])
            spec = importlib.machinery.PathFinder.find_spec(inner, spec.submodule_search_locations)
    except (ImportError, ValueError, AttributeError):  # For example a module without a spec.
        return None
    return spec


def split(reference: str) -> tuple[str, str]:
    """Split a reference into module (or path) and attribute, without importing.

    Raises:
        ConfigError: The reference is malformed.
    """
    module_name, _, attribute = reference.rpartition(":")
    if _is_dotted(attribute) and (_is_path(module_name) or _is_dotted(module_name)):
        return module_name, attribute
    raise ConfigError(f"invalid reference {reference!r:.200}: write module:Name or file.py:Name")


def explain(error: BaseException) -> str:
    """Return type, message and location of an exception from the user's code.

    The location is the deepest line of the user's own code, not of a library that it called.
    """
    try:
        said = f"{type(error).__name__}: {error}"
    except BaseException:  # noqa: BLE001 - the exception's own __str__ can raise anything
        said = f"{type(error).__name__} (its message cannot be read)"
    place = _place(error)
    return f"{said[:_MAX_TEXT]} (at {place})" if place else said[:_MAX_TEXT]


def file_below(name: str, folder: Path) -> Path | None:
    """Return the source of a module or path in ``folder``, with links resolved; None if missing."""
    if not _is_path(name):
        return _file_of(name, folder)
    return (folder / name).resolve() if is_file(folder / name) else None


def _is_path(module_name: str) -> bool:
    return module_name.endswith(".py") and module_name != ".py"


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _from_path(reference: str, path: str, folders: list[Path]) -> ModuleType:
    return _load_file(_file_in(reference, path, folders), reference)


def _file_in(reference: str, path: str, folders: list[Path]) -> Path:
    for folder in folders:
        if file := file_below(path, folder):
            return file
    raise ConfigError(f"{reference!r}: no file {path!r} in {_listed(folders)}")


def _load_file(file: Path, reference: str) -> ModuleType:
    """Load a file under a name with a digest of its path, since file names can repeat."""
    digest = hashlib.sha256(os.fsencode(file)).hexdigest()[:12]
    name = f"{file.stem.replace('.', '_')}_{digest}"
    if name not in sys.modules:
        _open_folder(file, file.parent)
        with _named_failure(reference):
            _execute(name, file)
    return sys.modules[name]


def _from_name(reference: str, name: str, folders: list[Path]) -> ModuleType:
    for folder in folders:
        file = _file_of(name, folder)
        if file:
            return _import_from(folder, name, file, reference)
    return _import_from_path(reference, name, folders)


def _import_from(folder: Path, name: str, file: Path, reference: str) -> ModuleType:
    top = name.partition(".")[0]
    top_file = _file_of(top, folder)
    top_place = top_file or folder / top
    _refuse_standard(top, folder)
    _refuse_other(top, top_place)
    _refuse_other(name, file)
    if name not in sys.modules:
        _open_folder(file, folder)
    with _named_failure(reference):
        # Load by file: a module in ``search`` wins over an installed one of the same name.
        if top_file and top not in sys.modules:
            _execute(top, top_file)
        importlib.import_module(top)
    _refuse_other(top, top_place)
    with _named_failure(reference):
        module = importlib.import_module(name)
    _refuse_other(name, file)
    return module


def _refuse_standard(top: str, folder: Path) -> None:
    if top in sys.stdlib_module_names:
        place = _file_of(top, folder) or folder / top
        raise _clash(top, "Python's standard library", place)


def _import_from_path(reference: str, name: str, folders: list[Path]) -> ModuleType:
    importlib.invalidate_caches()
    with _named_failure(reference):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not error.name or not f"{name}.".startswith(f"{error.name}."):
                raise
    raise _missing(reference, name, folders)


def _missing(reference: str, name: str, folders: list[Path]) -> ConfigError:
    stems = [file.stem for folder in folders for file in folder.glob("*.py")]
    return ConfigError(
        f"{reference!r}: no module {name!r} in {_listed(folders)}, nor where Python looks: "
        f"{did_you_mean(name, stems, NO_SIMILAR_NAME)}"
    )


def _execute(name: str, file: Path) -> None:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise


def _attribute(reference: str, module: ModuleType, path: str) -> Any:
    target: Any = module
    for name in path.split("."):
        try:
            target = getattr(target, name)
        except AttributeError:
            hint = did_you_mean(name, dir(target), NO_SIMILAR_NAME)
            raise ConfigError(f"{reference!r}: {_home(module)} has no {name!r}: {hint}") from None
    return target


def _file_of(name: str, folder: Path) -> Path | None:
    """Return the source of a dotted name in ``folder``; packages win over modules, as in Python."""
    base = folder.joinpath(*name.split("."))
    for file in (base / "__init__.py", base.parent / f"{base.name}.py"):
        if is_file(file):
            return file.resolve()
    return None


def _home(module: ModuleType) -> Path | None:
    """Return the file of a loaded module; None for a package without ``__init__.py``."""
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if file else None


def _refuse_other(name: str, place: Path) -> None:
    module = sys.modules.get(name)
    if module is None:
        return
    home = _home(module)
    if home is None and hasattr(module, "__path__") and place.is_dir():
        return  # a namespace package can span folders
    if home != place:
        raise _clash(name, str(home or "Python itself"), place)


def _clash(name: str, taken_by: str, place: Path) -> ConfigError:
    return ConfigError(
        f"the module name {name!r} is taken by {taken_by} and also claimed by {place}: "
        "rename one of them"
    )


def _open_folder(file: Path, folder: Path) -> None:
    """Let ``file`` import its neighbours in ``folder``, unless other modules shadow them."""
    importlib.invalidate_caches()
    _refuse_mistaken_neighbours(file, folder, {file})
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _refuse_mistaken_neighbours(file: Path, folder: Path, seen: set[Path]) -> None:
    """Reject a ``helpers.py`` that another collection's file of that name would shadow."""
    for name in sorted(_imports(file)):
        neighbour = _file_of(name, folder)
        if neighbour is None or neighbour in seen:
            continue
        seen.add(neighbour)
        found = _importable(name, folder)
        if found and found != neighbour and not _is_library(str(found)):
            raise _clash(name, str(found), neighbour)
        _refuse_mistaken_neighbours(neighbour, folder, seen)


def _imports(file: Path) -> set[str]:
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return set()  # the import reports the error
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def _importable(name: str, folder: Path) -> Path | None:
    """Return the file that ``import name`` would load once ``folder`` is on the path."""
    if name in sys.modules:
        return _home(sys.modules[name])
    spec = importlib.machinery.PathFinder.find_spec(name, [*sys.path, str(folder)])
    return Path(spec.origin).resolve() if spec and spec.origin else None


@contextmanager
def _named_failure(reference: str) -> Iterator[None]:
    try:
        yield
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{reference!r}: import failed: {explain(error)}") from error


def _place(error: BaseException) -> str:
    if isinstance(error, SyntaxError) and _is_path(error.filename or ""):
        return f"{error.filename}:{error.lineno}"
    frames = traceback.walk_tb(error.__traceback__)
    places = [(frame.f_code.co_filename, line) for frame, line in frames]
    own = [place for place in places if not _is_library(place[0])]
    foreign = [place for place in places if not _is_machinery(place[0])]
    file, line = (own or foreign or [("", 0)])[-1]
    return f"{file}:{line}" if file else ""


def _is_machinery(file: str) -> bool:
    return file.startswith("<") or Path(__file__).parents[1] in Path(file).parents


def _is_library(file: str) -> bool:
    folders = Path(file).parents
    installed = any(folder.name in {"site-packages", "dist-packages"} for folder in folders)
    return installed or _is_machinery(file) or _stdlib() in folders


@cache
def _stdlib() -> Path:
    import sysconfig

    return Path(sysconfig.get_path("stdlib")).resolve()


def _listed(folders: list[Path]) -> str:
    return ", ".join(map(str, folders)) or "any folder (none given)"
