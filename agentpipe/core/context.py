"""Context: one set of credentials for an agent, and how references to them are resolved.

Values are never shown: not in a repr, not in a message.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

from agentpipe.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_FILE_BYTES = 1024 * 1024

# In this order: what is escaped, what is a reference, what only begins like one.
_REFERENCE = re.compile(
    r"\$(?P<escaped>\$\{)|\$\{(?:file:(?P<file>/[^}]*)|(?P<name>[A-Za-z_][A-Za-z0-9_]*))\}|\$\{"
)
_MALFORMED = "a malformed ${: write ${NAME} or ${file:/absolute/path}, and $${ for the text ${"


@dataclass(frozen=True, slots=True, repr=False)
class Context:
    """What an agent may know beside its task; both mappings are read-only.

    Attributes:
        env: Names and credentials. They never enter ``os.environ``.
        metadata: The collection's own words about this context.
    """

    env: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Agents share a context: none may change it for the others.
        object.__setattr__(self, "env", MappingProxyType(dict(self.env)))
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

    What a reference brings in is not searched for further references, and one newline at a
    file's end is dropped.

    Args:
        spec_env: Names and values as the collection has them.
        environ: Where ``${NAME}`` is looked up.
        file: Where ``spec_env`` was written, for the problems.
        lines: The line of each name of ``spec_env``, likewise.

    Raises:
        ConfigError: With one problem for each reference that leads nowhere, in order.
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


class _LeadsNowhereError(Exception):
    """A reference without a value; the text says why."""


def _expand(template: str, environ: Mapping[str, str]) -> tuple[str, list[str]]:
    complaints = []

    def replacement(match: re.Match[str]) -> str:
        try:
            return _value(match, environ)
        except _LeadsNowhereError as error:
            complaints.append(str(error))
            return ""

    return _REFERENCE.sub(replacement, template), complaints


def _value(match: re.Match[str], environ: Mapping[str, str]) -> str:
    if match["escaped"]:
        return match["escaped"]
    if match["file"]:
        return _content(match["file"])
    if not match["name"]:
        raise _LeadsNowhereError(_MALFORMED)
    if match["name"] not in environ:
        raise _LeadsNowhereError(
            f"the variable {match['name']} is not set: set it where the workers start"
        )
    return environ[match["name"]]


def _content(path: str) -> str:
    try:
        with open(path, "rb") as stream:  # noqa: PTH123 - a device or pipe will do as well
            data = stream.read(MAX_FILE_BYTES + 1)
        text = data.decode()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise _LeadsNowhereError(
            f"the file {path!r} cannot be read ({reason}): check the path and its permissions"
        ) from None
    if len(data) > MAX_FILE_BYTES or "\0" in text:
        raise _LeadsNowhereError(
            f"the file {path!r} holds a NUL or more than {MAX_FILE_BYTES:,} bytes: "
            "name one that holds a credential"
        )
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")
