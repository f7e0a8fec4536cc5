"""Find context values in a server's command line, which every user of the machine can read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from agentpipe.core.secret_names import holds_password
from agentpipe.core.template import names_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

# Suffixes of variable names that hold paths and addresses.
_PLACE = re.compile(
    r"(?:^|_)(?:HOME|DIR|DIRECTORY|FOLDER|PATH|FILE|PORT|HOST|HOSTNAME)$", re.IGNORECASE
)


def shown_names(entry: Mapping[str, Any]) -> list[str]:
    """Return the variables in an entry's ``command`` and ``args`` that can be credentials."""
    return sorted({name for name in _in_command_lines(entry) if not _PLACE.search(name)})


def shown_passwords(entry: Mapping[str, Any], env: Mapping[str, str]) -> list[str]:
    """Return the variables there whose values are URLs with a password, whatever their names."""
    return sorted({n for n in _in_command_lines(entry) if holds_password(env.get(n, ""))})


def refusal(server: str, names: list[str], place: str = "") -> str:
    """Explain the problem with these names, and the remedy."""
    first = names[0]
    return (
        f"the MCP server {server!r} shows {', '.join(names)} in its command line{place}, which "
        f"every user of the machine can read: write `env: {{{first}: '{{{{{first}}}}}'}}` instead "
        "of the argument, or name a file of mode 0600 by a variable that ends in _FILE"
    )


def place_in(file: Path, server: str, names: list[str]) -> str:
    """Return where a server list uses the first of the names, as `` (file:line)``."""
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        return f" ({file})"
    after = next((n for n, line in enumerate(lines) if f'"{server}"' in line), 0)
    template = re.compile(rf"\{{\{{\s*{re.escape(names[0])}\s*\}}\}}")
    found = next((n for n, line in enumerate(lines[after:], after) if template.search(line)), after)
    return f" ({file}:{found + 1})"


def _in_command_lines(entry: Mapping[str, Any]) -> Iterator[str]:
    for transport in ("stdio", "sse"):
        start = entry.get(transport)
        if isinstance(start, dict):
            yield from names_in(start.get("command"))
            yield from names_in(start.get("args"))
