"""One set of credentials for an agent, and the resolution of references to credentials.

No repr and no message shows a value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

from agentpipe.core.secret_names import is_credential
from agentpipe.core.template import names_in as names_in_templates
from agentpipe.errors import ConfigError, MissingVariable, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.core.account import Account

MAX_FILE_BYTES = 1024 * 1024

# In this order: an escape, a reference, a malformed reference.
_REFERENCE = re.compile(
    r"\$(?P<escaped>\$\{)|\$\{(?:file:(?P<file>/[^}$]*+(?:\$(?!\{)[^}$]*+)*)|(?P<name>[A-Za-z_][A-Za-z0-9_]*))\}|\$\{"
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
        public: The names whose values a task's templates may read; None for all but credentials.
        base_url: Of the gateway of its run where that is recorded, without ``/v1``; else empty.
        readable: The part of ``env`` that they may read. Templates of the collection's and the
            agent's own files read all.
        account: The user as whom the programs of its agents run; None for the worker's own.
    """

    env: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    public: frozenset[str] | None = None
    account: Account | None = None
    base_url: str = ""
    readable: Mapping[str, str] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        # Agents share a context: none may change it for the others.
        object.__setattr__(self, "env", MappingProxyType(_Env(self.env)))
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))
        object.__setattr__(self, "readable", MappingProxyType(self._readable()))

    def __repr__(self) -> str:
        return f"Context(env=<{', '.join(self.env)}>)"

    @property
    def hidden(self) -> frozenset[str]:
        """The names whose values a task's templates never read."""
        return frozenset(self.env.keys() - self.readable.keys())

    def hidden_problems(self, value: Any) -> list[str]:
        """A sentence for each name that a task's ``value`` has in a template and may not read."""
        if len(self.readable) == len(self.env):
            return []
        hidden = self.hidden
        return [
            hidden_problem(name)
            for name in dict.fromkeys(names_in_templates(value))
            if name in hidden
        ]

    def _readable(self) -> dict[str, str]:
        if self.public is not None:
            return {name: value for name, value in self.env.items() if name in self.public}
        return {name: v for name, v in self.env.items() if not is_credential(name, v)}

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Context holds credentials and is not pickled")


NO_CONTEXT = Context()


def hidden_problem(name: str) -> str:
    """Why a task's template does not get a variable, and what to do."""
    return (
        f"{{{{ {name} }}}} is hidden from tasks, as credentials are: if they may read it, list it "
        f"in the context: `public: [{name}]`"
    )


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
