"""Check what a reference names by reading its file; nothing is imported or run."""

from __future__ import annotations

import ast
import time
import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from agentpipe.config.imports import source_of, split
from agentpipe.core.did_you_mean import NO_SIMILAR_NAME, did_you_mean
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from agentpipe.config.function_scope import FunctionScope

# A sender checks the same function for every task.
_TRUST_S = 1.0
_MAX_TRUSTED = 10_000
_trusted: dict[tuple[str, tuple[str, ...], FunctionScope], float] = {}

# A module that calls one of these can define any name at run time; some only without arguments.
_DYNAMIC, _DYNAMIC_BARE = frozenset(("globals", "exec")), frozenset(("locals", "vars"))
_CONSTANTS = (ast.Constant, ast.JoinedStr, ast.List, ast.Tuple, ast.Dict, ast.Set)


@dataclass(frozen=True, slots=True)
class _Module:
    """The names that a file defines at its top level.

    Attributes:
        names: The statement that defines each name; the whole module if several do.
        open: Whether it can define other names: by ``__getattr__``, a star import, or at run time.
    """

    names: dict[str, ast.AST] = field(default_factory=dict)
    open: bool = False


def problem_of_function(reference: str, scope: FunctionScope, given: Sequence[str]) -> str:
    """Return why ``reference`` cannot be called with one argument; empty if it seems callable.

    A function that ``scope`` does not offer is also a problem.

    ``given`` are the names of further arguments that the function can take. A module without
    source, or one that defines names at run time, cannot be checked and passes.
    """
    key = (reference, tuple(given), scope)
    now = time.monotonic()
    if now - _trusted.get(key, -_TRUST_S) < _TRUST_S:
        return ""
    try:
        problem = _problem(reference, scope, given)
    except ConfigError as error:
        return str(error)
    if not problem:
        if len(_trusted) >= _MAX_TRUSTED:
            _trusted.clear()
        _trusted[key] = now
    return problem


def is_defined(reference: str, scope: FunctionScope) -> bool:
    """Whether exactly one ``def`` or ``class`` of its file defines what ``reference`` names.

    Raises:
        ConfigError: The scope does not offer it.
    """
    module = _module_in(scope.file_of(reference))
    node = module.names.get(split(reference)[1]) if module else None
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))


def _problem(reference: str, scope: FunctionScope, given: Sequence[str]) -> str:
    file = scope.file_of(reference)
    module = _module_in(file)
    if module is None:
        return ""
    name = split(reference)[1]
    if name not in module.names:
        return _problem_of_absence(reference, file, module, name)
    node = module.names[name]
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return _problem_of_import(reference, node, scope)
    return _problem_of_definition(reference, node, given)


def _problem_of_absence(reference: str, file: Path | None, module: _Module, name: str) -> str:
    if module.open:
        return ""
    hint = did_you_mean(name, module.names, NO_SIMILAR_NAME)
    return f"{reference!r}: {file} has no {name!r}: {hint}"


def _problem_of_import(
    reference: str, node: ast.Import | ast.ImportFrom, scope: FunctionScope
) -> str:
    """Reject imported names that tasks cannot call; a package can re-export its own functions."""
    if isinstance(node, ast.Import):
        return f"{reference!r} is not a function but a module"
    if node.level or scope.offers_import(node.module or ""):
        return ""
    return f"{reference!r} is imported from {node.module}: define a function that calls it"


def _problem_of_definition(reference: str, node: ast.AST, given: Sequence[str]) -> str:
    if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, _CONSTANTS):
        return f"{reference!r} is not a function"
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not node.decorator_list:
        return _problem_of_arguments(reference, node.args, given)
    return ""


def _problem_of_arguments(reference: str, takes: ast.arguments, given: Sequence[str]) -> str:
    """Return what is wrong with the parameters of a function that is called with one value."""
    positional = [*takes.posonlyargs, *takes.args]
    if not positional and takes.vararg is None:
        return f"{reference!r} has no parameter for the answer: add one"
    required = positional[1 : len(positional) - len(takes.defaults)]
    pairs = zip(takes.kwonlyargs, takes.kw_defaults, strict=True)
    by_name = [arg for arg, default in pairs if default is None]
    wrong = [arg.arg for arg in takes.posonlyargs[1:] if arg in required]
    wrong += [arg.arg for arg in [*required, *by_name] if arg.arg not in {*given, *wrong}]
    if not wrong:
        return ""
    return (
        f"{reference!r} requires {', '.join(map(repr, wrong))}: beside the answer it can have "
        f"{', '.join(given)}; give any other parameter a default"
    )


def _module_in(file: Path | None) -> _Module | None:
    try:
        status = file.stat() if file else None
    except OSError:
        return None  # The worker might be able to read it.
    return _module(file, status.st_mtime_ns, status.st_size) if file and status else None


@lru_cache(maxsize=256)
def _module(file: Path, _changed_ns: int, _size: int) -> _Module:
    """Parse a file; raises ``ConfigError`` if it is not Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python itself warns of invalid escapes.
            tree = ast.parse(file.read_bytes())
    except SyntaxError as error:
        raise ConfigError(f"{file}:{error.lineno}: not Python: {error.msg}") from error
    except ValueError as error:
        raise ConfigError(f"{file}: not Python: {error}") from error
    except (OSError, RecursionError, MemoryError):
        return _Module(open=True)
    names: dict[str, ast.AST] = dict.fromkeys(_submodules(file), tree)
    for name, node in _bound(tree.body):
        alike = isinstance(names.get(name, node), ast.Import) and isinstance(node, ast.Import)
        names[name] = node if name not in names or alike else tree
    return _Module(names, "__getattr__" in names or _is_dynamic(tree))


def _is_dynamic(tree: ast.AST) -> bool:
    return any(map(_may_define, ast.walk(tree)))


def _may_define(node: ast.AST) -> bool:
    """Whether a node can define any name of its module."""
    if isinstance(node, ast.ImportFrom):
        return any(alias.name == "*" for alias in node.names)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id in _DYNAMIC or (not node.args and node.func.id in _DYNAMIC_BARE)
    in_modules = isinstance(node, ast.Attribute) and node.attr == "modules"  # As in sys.modules.
    return in_modules or isinstance(node, ast.Global)


def _submodules(file: Path) -> set[str]:
    """Return the names that importing submodules adds to a package."""
    if file.name != "__init__.py":
        return set()
    try:
        return {entry.stem for entry in file.parent.iterdir()}
    except OSError:
        return set()


def _bound(statements: Iterable[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    """Yield each bound name and its statement; blocks are entered, functions are not."""
    for node in statements:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, node
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                yield alias.asname or alias.name.partition(".")[0], node
        elif not isinstance(node, (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp)):
            yield from _bound_within(node)


def _bound_within(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.AnnAssign) and node.value is None:
        return
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id, node
        elif isinstance(child, (ast.MatchAs, ast.MatchStar)) and child.name:
            yield child.name, child
        yield from _bound([child])


def problem_of_name(reference: str, search: Sequence[Path]) -> str:
    """Return why ``reference`` names nothing in the ``search`` folders; empty if it can be valid.

    Never raises: a malformed reference or a missing module is returned as a problem too.
    """
    try:
        file = source_of(reference, search)
        module = _module_in(file)
    except ConfigError as error:
        return str(error)
    name = split(reference)[1].partition(".")[0]
    if module is None or name in module.names:
        return ""
    return _problem_of_absence(reference, file, module, name)
