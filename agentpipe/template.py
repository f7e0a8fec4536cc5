"""Templates: ``{{ NAME }}`` in texts, replaced by values of a context."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

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
