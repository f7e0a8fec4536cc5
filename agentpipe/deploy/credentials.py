"""Credentials that a collection refers to, for a Secret that is never printed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from agentpipe.core.context import names_in
from agentpipe.core.masking import masked
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentpipe.config.collection import Collection, ContextSpec

# `$${` stands for a literal `${`, as in contexts.
_FILE = re.compile(r"(?<!\$)\$\{file:(/[^{}]++)\}")
_REFERENCE = re.compile(r"(?<!\$)\$\{(?:file:/[^{}]++|[A-Za-z_][A-Za-z0-9_]*+)\}")
SERVERS = ("AGENTPIPE_BROKER", "AGENTPIPE_SINK")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY = re.compile(r"[-._A-Za-z0-9]{1,253}")


@dataclass(frozen=True, slots=True)
class Credentials:
    """References in a collection's contexts.

    Attributes:
        variables: Names of environment variables.
        files: Absolute paths.
    """

    variables: tuple[str, ...]
    files: tuple[str, ...]


def credentials_of(collection: Collection) -> Credentials:
    """Return the contexts' references, for a collection whose text goes into a ConfigMap.

    Raises:
        ConfigError: A value is in the file itself, or a file's name is not a valid Secret key.
    """
    for context in collection.contexts:
        _refuse_shown(collection, context)
    found = references_in(collection)
    for path in found.files:
        _refuse_bad_name(collection, path)
    return found


def references_in(collection: Collection) -> Credentials:
    """Return the references in the collection's contexts."""
    values = [value for each in collection.contexts for value in each.env.values()]
    variables = {name for value in values for name in names_in(value)}
    files = {path for value in values for path in _FILE.findall(value)}
    return Credentials(tuple(sorted(variables)), tuple(sorted(files)))


def _refuse_shown(collection: Collection, context: ContextSpec) -> None:
    for name, value in context.env.items():
        is_public = context.public is not None and name in context.public
        # Separators alone are not a secret, but a word next to a reference can be half of one.
        if not is_public and any(map(str.isalnum, _REFERENCE.sub("", value))):
            raise ConfigError(
                f"collection {collection.name}: {_part(value)} the value of {name} is in the file, "
                f"and would be in a ConfigMap: write ${{{name}}} or "
                f"${{file:/run/secrets/agentpipe/{name}}} for all of it, or list the name in "
                "public: if it is not a secret"
            )


def _part(value: str) -> str:
    return "a part of" if _REFERENCE.search(value) else "all of"


def refuse_known_keys(collection: Collection, text: str) -> None:
    """Check the rest of the document, such as its comments, for keys of well-known services.

    Raises:
        ConfigError: Names the first line with a key.
    """
    for number, line in enumerate(text.splitlines(), collection.line):
        if masked(line) != line:
            raise ConfigError(
                f"{collection.file}:{number}: this line has what looks like a credential, and "
                "would be in a ConfigMap: take it out of the file, also out of comments"
            )


def _refuse_bad_name(collection: Collection, path: str) -> None:
    pure = PurePosixPath(path)
    if not _KEY.fullmatch(pure.name) or ".." in pure.parts or str(pure) != path or ":" in path:
        raise ConfigError(
            f"collection {collection.name}: {path!r} cannot be a key of a Secret that is mounted "
            "there: use letters, digits, '-', '.' and '_' for the name, and a plain path"
        )


def refuse_bad_variables(names: Iterable[str]) -> None:
    """Check variable names given on the command line: a value there would be printed.

    Raises:
        ConfigError: A name is invalid; the message does not repeat it.
    """
    if not all(map(_VARIABLE.fullmatch, names)):
        raise ConfigError(
            "--secret-env: give the name of a variable alone, such as OPENAI_API_KEY; its value "
            "belongs into the Secret, or the file of that name"
        )
