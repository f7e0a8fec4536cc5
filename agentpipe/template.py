"""Templates: ``{{ NAME }}`` in texts, replaced from a mapping and nothing more.

MCP-Universe renders these by Jinja; expressions are left alone here, so that no text of a task
can compute anything.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PLACE = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")


def render(value: Any, env: Mapping[str, str]) -> Any:
    """A copy of JSON with each name's place filled, in keys too; unknown names stay as they are."""
    if isinstance(value, str):
        return _PLACE.sub(lambda match: env.get(match[1], match[0]), value)
    if isinstance(value, dict):
        return {render(name, env): render(item, env) for name, item in value.items()}
    if isinstance(value, list):
        return [render(item, env) for item in value]
    return value


def names_in(value: Any) -> Iterator[str]:
    """Each name that has a place in ``value``."""
    if isinstance(value, str):
        yield from (match[1] for match in _PLACE.finditer(value))
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from names_in(name)
            yield from names_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from names_in(item)
