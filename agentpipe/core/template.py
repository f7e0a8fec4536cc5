"""Templates: ``{{ NAME }}`` in texts, replaced by values of a context and nothing more.

MCP-Universe renders these by Jinja; expressions are left alone here, so that no text of a task
can compute anything.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_NAME = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")


def render(value: Any, env: Mapping[str, str]) -> Any:
    """``value`` with each name in its texts replaced, however deep they lie in lists and objects.

    A name that ``env`` does not have stays as it stands, and so does all that is more than a name:
    nothing is computed, and what was put in is not searched again. Keys are left alone.
    """
    if isinstance(value, str):
        return _NAME.sub(lambda match: env.get(match[1], match[0]), value)
    if isinstance(value, dict):
        return {key: render(item, env) for key, item in value.items()}
    if isinstance(value, list):
        return [render(item, env) for item in value]
    return value


def names_in(value: Any) -> Iterator[str]:
    """Each name that has a place in ``value``."""
    if isinstance(value, str):
        yield from (match[1] for match in _NAME.finditer(value))
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from names_in(item)
