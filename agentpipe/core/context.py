"""One set of credentials for an agent, and the resolution of references to credentials.

No repr and no message shows a value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

from agentpipe.errors import ConfigError, MissingVariable, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_FILE_BYTES = 1024 * 1024

# In this order: an escape, a reference, a malformed reference.
_REFERENCE = re.compile(
    r"\$(?P<escaped>\$\{)|\$\{(?:file:(?P<file>/(?:(?!\$\{)[^}])*+)|(?P<name>[A-Za-z_][A-Za-z0-9_]*))\}|\$\{"
)
_MALFORMED = "a malformed ${: write ${NAME} or ${file:/absolute/path}, and $${ for a literal ${"


class _Env(dict[str, str]):
    def __missing__(self, name: str) -> NoReturn:
        raise MissingVariable(f"the context has no variable {name!r}: add it to the context's env")


@dataclass(frozen=True, slots=True, repr=False)
class Context:
    """What an agent gets beside its task; both mappings are read-only.

    Attributes:
        env: Names and credentials. They never enter ``os.environ``.
        metadata: Data that the collection attaches to this context.
    """

    env: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Agents share a context: none may change it for the others.
        object.__setattr__(self, "env", MappingProxyType(_Env(self.env)))
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))

    def __repr__(self) -> str:
        return f"Context(env=<{', '.join(self.env)}>)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Context holds credentials and is not pickled")


def resolve(
    spec_env: Mapping[str, str],
    environ: Mapping[str, str],
    *,
    file: str = "",
    lines: Mapping[str, int] | None = None,
) -> dict[str, str]:
    """Replace ``${NAME}`` and ``${file:/path}`` in each value; ``$${`` stands for ``${``.

    Inserted values are not resolved again. One newline at the end of a file is dropped.

    Args:
        spec_env: Names and values from the collection.
        environ: Where ``${NAME}`` is looked up.
        file: The file that holds ``spec_env``, for messages.
        lines: The line of each name in it, for messages.

    Raises:
        ConfigError: Lists every unresolved reference, in order.
    """
    problems: list[Problem] = []
    resolved = {}
    for name, template in spec_env.items():
        resolved[name], complaints = _expand(template, environ)
        line = (lines or {}).get(name, 0)
        problems += (Problem(f"env {name}: {text}", file, line) for text in complaints)
    if problems:
        raise ConfigError(problems)
    return resolved


def names_in(template: str) -> list[str]:
    """The variables that a value refers to."""
    return [match["name"] for match in _REFERENCE.finditer(template) if match["name"]]


class _UnresolvedError(Exception):
    """A reference without a value; the message says why."""


def _expand(template: str, environ: Mapping[str, str]) -> tuple[str, list[str]]:
    complaints = []

    def replacement(match: re.Match[str]) -> str:
        try:
            return _value(match, environ)
        except _UnresolvedError as error:
            complaints.append(str(error))
            return ""

    return _REFERENCE.sub(replacement, template), complaints


def _value(match: re.Match[str], environ: Mapping[str, str]) -> str:
    if match["escaped"]:
        return match["escaped"]
    if match["file"]:
        return _content(match["file"])
    if not match["name"]:
        raise _UnresolvedError(_MALFORMED)
    if match["name"] not in environ:
        raise _UnresolvedError(
            f"the variable {match['name']} is not set: set it where the workers start"
        )
    return environ[match["name"]]


def _content(path: str) -> str:
    try:
        with open(path, "rb") as stream:  # noqa: PTH123 - a device or pipe works as well
            data = stream.read(MAX_FILE_BYTES + 1)
        text = data.decode()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise _UnresolvedError(
            f"the file {path!r} cannot be read ({reason}): check the path and its permissions"
        ) from None
    if len(data) > MAX_FILE_BYTES or "\0" in text:
        raise _UnresolvedError(
            f"the file {path!r} holds a NUL or more than {MAX_FILE_BYTES:,} bytes: "
            "name one that holds a credential"
        )
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")
