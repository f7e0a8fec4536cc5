"""An agent's set of credentials, and the resolution of references to credentials.

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

# In order: an escape, a reference, a malformed reference.
_REFERENCE = re.compile(
    r"\$(?P<escaped>\$\{)|\$\{(?:file:(?P<file>/[^}$]*+(?:\$(?!\{)[^}$]*+)*)|(?P<name>[A-Za-z_][A-Za-z0-9_]*))\}|\$\{"
)
_MALFORMED = "a malformed ${: write ${NAME} or ${file:/absolute/path}, and $${ for a literal ${"


class _Env(dict[str, str]):
    def __missing__(self, name: str) -> NoReturn:
        raise MissingVariable(f"the context has no variable {name!r}: add it to the context's env")


@dataclass(frozen=True, slots=True, repr=False)
class Context:
    """What an agent gets besides its task; both mappings are read-only.

    Attributes:
        env: Names and credentials. They never enter ``os.environ``.
        metadata: Data that the collection attaches to this context.
        public: Names whose values a task's templates can read; None for all except credentials.
        base_url: URL without ``/v1`` of the run's recording gateway; empty if the run is not
            recorded.
        readable: The part of ``env`` that a task's templates can read. Templates in the
            collection's and agent's own files read all of it.
        account: The user as whom its agents' programs run; None for the worker's own user.
    """

    env: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    public: frozenset[str] | None = None
    account: Account | None = None
    base_url: str = ""
    readable: Mapping[str, str] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        # Agents share a context: no agent can change it for the others.
        object.__setattr__(self, "env", MappingProxyType(_Env(self.env)))
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))
        object.__setattr__(self, "readable", MappingProxyType(self._readable()))

    def __repr__(self) -> str:
        return f"Context(env=<{', '.join(self.env)}>)"

    @property
    def hidden(self) -> frozenset[str]:
        """Names whose values a task's templates can never read."""
        return frozenset(self.env.keys() - self.readable.keys())

    def hidden_problems(self, value: Any) -> list[str]:
        """Return one sentence per name in ``value``'s templates that a task cannot read."""
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
    """Explain why a task's template cannot read a variable, and the remedy."""
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

    Inserted values are not resolved again. One trailing newline of a file is dropped.

    Args:
        spec_env: Names and values from the collection.
        environ: Where ``${NAME}`` is looked up.
        file: The file that contains ``spec_env``, for messages.
        lines: The line of each name in that file, for messages.

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
    """Return the variables that a value refers to."""
    return [match["name"] for match in _REFERENCE.finditer(template) if match["name"]]


class _UnresolvedError(Exception):
    """A reference cannot be resolved; the message says why."""


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
        with open(path, "rb") as stream:  # noqa: PTH123 - a device or pipe works too
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
