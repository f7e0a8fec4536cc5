"""Decides whether an operator raised because of the answer.

MCP-Universe's operators assume that the answer has the right shape: ``x["routes"]`` of the answer
``{}`` is a KeyError. That is a wrong answer. The same error about a service's response, or about
the evaluator's own arguments, is not. The objects in the expression that raised show which case it
is.
"""

from __future__ import annotations

import ast
import importlib
import linecache
import sys
from typing import TYPE_CHECKING, Any

from .failure import is_infra

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType, TracebackType
    from typing import Self

# Errors of a value with the wrong shape; OverflowError and RecursionError need odd values.
SHAPE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
CONTACTS = frozenset(("socket.connect", "socket.getaddrinfo", "subprocess.Popen"))
PACKAGE = "mcpuniverse.evaluator."
# Python shares one object for all equal shorter strings.
MIN_OWN_CHARS = 2
# Names that the operators use for the evaluator's own arguments.
ARGUMENTS = frozenset(("args", "op_args"))
JSON = (dict, list, tuple, set, str, int, float, type(None))

_contacts = 0


def install() -> None:
    """Count contacts outside this process, including libraries without audit events."""
    sys.addaudithook(_audited)
    try:
        session = importlib.import_module("curl_cffi.requests").Session
    except ImportError:
        return
    request = session.request

    def counted(*args: Any, **kwargs: Any) -> Any:
        _note_contact()
        return request(*args, **kwargs)

    session.request = counted


def _audited(event: str, _args: Any) -> None:
    if event in CONTACTS:
        _note_contact()


def _note_contact() -> None:
    global _contacts  # noqa: PLW0603 - audit hooks are global, too
    _contacts += 1


class WatchedOperator:
    """Keeps the exception of one evaluator's operator; MCP-Universe only keeps its text."""

    def __init__(self, op: str) -> None:
        self._op = op
        self._error: Exception | None = None

    def __enter__(self) -> Self:
        from mcpuniverse.evaluator.functions import COMPARISON_FUNCTIONS

        self._functions = COMPARISON_FUNCTIONS
        self._real = COMPARISON_FUNCTIONS.get(self._op)
        if self._real is not None:
            self._functions[self._op] = self._call
        return self

    def __exit__(self, *_: object) -> None:
        if self._real is not None:
            self._functions[self._op] = self._real

    async def _call(self, leaf: Any, *args: Any, **kwargs: Any) -> Any:
        self._leaf, self._args, self._before = leaf, args, _contacts
        try:
            return await self._real(leaf, *args, **kwargs)
        except Exception as error:
            self._error, self._reached_out = error, _contacts > self._before
            raise

    @property
    def reason(self) -> str:
        """The operator's error in one line; empty if it did not raise."""
        error = self._error
        return "" if error is None else f"{self._op} raised {type(error).__name__}: {error}"

    def met_failing_service(self) -> bool:
        """Whether the operator raised because a service failed."""
        return self._error is not None and is_infra(self._error)

    def blames_answer(self) -> bool:
        """Whether the operator raised because of the answer."""
        if not isinstance(self._error, SHAPE_ERRORS):
            return False
        place = _deepest(self._error.__traceback__)
        return place is not None and self._is_of_answer(_variables(*place))

    def _is_of_answer(self, named: dict[str, Any]) -> bool:
        """Whether an expression with these variables fails because of the answer."""
        objects = {id(each) for each in named.values()}
        if objects & set(_parts(self._leaf)):
            return True
        if self._reached_out or ARGUMENTS & named.keys() or objects & set(_parts(self._args)):
            return False
        if not named:
            return isinstance(self._error, AssertionError)
        # Only the answer is left as a source of these values, such as a part that is null.
        return all(isinstance(each, JSON) for each in named.values())


def _parts(value: Any) -> Iterator[int]:
    """The ids of a JSON value and its parts, except objects that Python may share."""
    pending = [value]
    while pending:
        each = pending.pop()
        if isinstance(each, (dict, list, tuple)):
            yield id(each)
            pending += [*each.values(), *each] if isinstance(each, dict) else each
        elif isinstance(each, (str, float)) and len(str(each)) >= MIN_OWN_CHARS:
            yield id(each)


def _deepest(trace: TracebackType | None) -> tuple[FrameType, Any] | None:
    """The deepest frame of evaluator code, and its position in the source."""
    found = None
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__", "").startswith(PACKAGE):
            positions = getattr(trace.tb_frame.f_code, "co_positions", None)  # Since 3.11.
            at = list(positions())[trace.tb_lasti // 2] if positions else (trace.tb_lineno,) * 2
            found = (trace.tb_frame, at)
        trace = trace.tb_next
    return found


def _variables(frame: FrameType, at: Any) -> dict[str, Any]:
    """The frame's variables in the expression that raised, except functions."""
    names = _names(frame.f_code.co_filename, tuple(at)) & frame.f_locals.keys()
    return {name: frame.f_locals[name] for name in names if not callable(frame.f_locals[name])}


def _names(file: str, at: tuple[int, ...]) -> set[str]:
    """The variables that the smallest expression or statement at the position reads."""
    tree = ast.parse("".join(linecache.getlines(file)))
    nodes = [node for node in ast.walk(tree) if _position(node)[: len(at)] == at]
    if not nodes:
        nodes = [node for node in ast.walk(tree) if getattr(node, "lineno", None) == at[0]]
    node = _read_by(nodes[-1], tree) if nodes else tree
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def _read_by(node: ast.AST, tree: ast.AST) -> ast.AST:
    """The part that fails when ``node`` does: an item's container, or a loop's iterable."""
    if isinstance(node, (ast.Subscript, ast.Attribute)):
        return node.value
    if isinstance(node, (ast.For, ast.AsyncFor)):
        return node.iter
    if isinstance(node, (ast.Tuple, ast.List)) and isinstance(node.ctx, ast.Store):
        for each in ast.walk(tree):  # An unpacking error has the position of its targets.
            if isinstance(each, ast.Assign) and node in each.targets:
                return each.value
            if isinstance(each, (ast.For, ast.AsyncFor)) and each.target is node:
                return each.iter
    return node


def _position(node: ast.AST) -> tuple[Any, ...]:
    names = ("lineno", "end_lineno", "col_offset", "end_col_offset")
    return tuple(getattr(node, name, None) for name in names)
