"""What mcpuniverse took from ``os.environ`` when it was imported, taken again in each child.

Its LLM configs have defaults such as ``api_key: str = os.getenv(...)``. The parent imported them
with its own environment; in a child the agent's context is what counts.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType, ModuleType

_taken: list[Taken] = []


@dataclass(frozen=True)
class Taken:
    """A name of a module or of a class in it, and the expression that gave its value."""

    module: ModuleType
    owner: str
    name: str
    expression: CodeType


def remember() -> None:
    """Find what was taken; slow, so done once, before the fork."""
    modules = [module for name, module in sys.modules.items() if name.startswith("mcpuniverse.")]
    _taken[:] = [taken for module in modules for taken in _taken_by(module)]


def refresh() -> None:
    """Evaluate it all again, in today's environment."""
    for taken in _taken:
        with contextlib.suppress(Exception):  # Such as a KeyError: not for who runs agents.
            _take(taken)


def _take(taken: Taken) -> None:
    value = eval(taken.expression, vars(taken.module))  # noqa: S307 - mcpuniverse's own source
    owner = getattr(taken.module, taken.owner) if taken.owner else taken.module
    setattr(owner, taken.name, value)
    if taken.owner:
        _set_default(owner, taken.name, value)


def _taken_by(module: ModuleType) -> Iterator[Taken]:
    try:
        source = inspect.getsource(module)
    except (OSError, TypeError):
        return  # It has no source, as an empty package has none.
    if "os.getenv" not in source and "os.environ" not in source:
        return
    tree = ast.parse(source)
    yield from _assigned(module, "", tree.body)
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from _assigned(module, node.name, node.body)


def _assigned(module: ModuleType, owner: str, body: list[ast.stmt]) -> Iterator[Taken]:
    for node in body:
        if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if isinstance(target, ast.Name) and _reads_environ(node.value):
            code = compile(ast.Expression(node.value), module.__name__, "eval")
            yield Taken(module, owner, target.id, code)


def _reads_environ(expression: ast.expr) -> bool:
    return any(
        isinstance(node, ast.Attribute) and node.attr in ("getenv", "environ")
        for node in ast.walk(expression)
    )


def _set_default(owner: Any, name: str, value: Any) -> None:
    """A dataclass keeps its defaults in its constructor; a subclass may have its parent's."""
    init = vars(owner).get("__init__")
    if init is None:
        return
    names = init.__code__.co_varnames[: init.__code__.co_argcount]
    defaults = list(init.__defaults__ or ())
    place = names.index(name) - len(names) if name in names else 0
    if place and -place <= len(defaults):
        defaults[place] = value
        init.__defaults__ = tuple(defaults)
