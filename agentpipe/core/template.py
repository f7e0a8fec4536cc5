"""Replace ``{{ NAME }}`` in strings by values of a context.

MCP-Universe renders these with Jinja. Here, expressions are not evaluated, so that a task cannot
compute anything.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_NAME = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")


def render(value: Any, env: Mapping[str, str]) -> Any:
    """Return ``value`` with names in its strings replaced, at any depth of lists and objects.

    Unknown names, expressions and keys stay unchanged; inserted values are not rendered again.
    """
    if isinstance(value, str):
        return _NAME.sub(lambda match: env.get(match[1], match[0]), value)
    if isinstance(value, dict):
        return {key: render(item, env) for key, item in value.items()}
    if isinstance(value, list):
        return [render(item, env) for item in value]
    return value


def names_in(value: Any) -> Iterator[str]:
    """Yield the names used in ``value``."""
    if isinstance(value, str):
        yield from (match[1] for match in _NAME.finditer(value))
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from names_in(item)
