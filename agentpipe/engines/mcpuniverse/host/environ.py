"""Re-evaluates in each child what mcpuniverse reads from ``os.environ`` at import.

Its LLM configs have defaults such as ``api_key: str = os.getenv(...)``. The parent imports them
with its own environment; a child needs the values of its agent's context.
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

_defaults: list[EnvironDefault] = []


@dataclass(frozen=True)
class EnvironDefault:
    """A name in a module or in one of its classes, and the expression of its value."""

    module: ModuleType
    owner: str
    name: str
    expression: CodeType


def remember() -> None:
    """Find the defaults once, before the fork, because it is slow."""
    modules = [module for name, module in sys.modules.items() if name.startswith("mcpuniverse.")]
    _defaults[:] = [default for module in modules for default in _defaults_of(module)]


def refresh() -> None:
    """Evaluate all defaults in the current environment."""
    for default in _defaults:
        with contextlib.suppress(Exception):  # E.g. KeyError: this agent may not need it.
            _evaluate(default)


def _evaluate(default: EnvironDefault) -> None:
    value = eval(default.expression, vars(default.module))  # noqa: S307 - mcpuniverse's own source
    owner = getattr(default.module, default.owner) if default.owner else default.module
    setattr(owner, default.name, value)
    if default.owner:
        _set_default(owner, default.name, value)


def _defaults_of(module: ModuleType) -> Iterator[EnvironDefault]:
    try:
        source = inspect.getsource(module)
    except (OSError, TypeError):
        return  # Empty packages have no source.
    if "os.getenv" not in source and "os.environ" not in source:
        return
    tree = ast.parse(source)
    yield from _assigned(module, "", tree.body)
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from _assigned(module, node.name, node.body)


def _assigned(module: ModuleType, owner: str, body: list[ast.stmt]) -> Iterator[EnvironDefault]:
    for node in body:
        if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if isinstance(target, ast.Name) and _reads_environ(node.value):
            code = compile(ast.Expression(node.value), module.__name__, "eval")
            yield EnvironDefault(module, owner, target.id, code)


def _reads_environ(expression: ast.expr) -> bool:
    return any(
        isinstance(node, ast.Attribute) and node.attr in ("getenv", "environ")
        for node in ast.walk(expression)
    )


def _set_default(owner: Any, name: str, value: Any) -> None:
    """Update the default in a dataclass's constructor too, which subclasses can inherit."""
    init = vars(owner).get("__init__")
    if init is None:
        return
    names = init.__code__.co_varnames[: init.__code__.co_argcount]
    defaults = list(init.__defaults__ or ())
    index = names.index(name) - len(names) if name in names else 0
    if index and -index <= len(defaults):
        defaults[index] = value
        init.__defaults__ = tuple(defaults)
