"""What a tool returned, as text for the model and images: whatever a server answers has some."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Picture:
    """An image; ``data`` is base64."""

    media_type: str
    data: str


@dataclass(frozen=True, slots=True)
class ToolContent:
    """A tool's result."""

    text: str
    pictures: tuple[Picture, ...] = ()


def content_of(result: Any) -> ToolContent:
    """The content of a ``tools/call`` result, well formed or not."""
    if not isinstance(result, dict):
        return ToolContent(_as_text(result))
    parts = _parts(result)
    text = "\n".join(map(_part, parts))
    failed = result.get("isError") not in (None, False)
    return ToolContent(f"Error: {text}" if failed else text, _pictures(parts))


def _parts(result: dict[str, Any]) -> Sequence[Any]:
    content = result.get("content")
    if isinstance(content, list) and content:
        return content
    if content:
        return [content]
    structured = result.get("structuredContent")
    return [] if structured is None else [structured]


def _part(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    describe = _DESCRIBED.get(kind) if isinstance(kind, str) else None
    return describe(part) if describe else _as_text(part)


def _text(part: dict[str, Any]) -> str:
    return _as_text(part.get("text", ""))


def _media(part: dict[str, Any]) -> str:
    """An image or a sound, which a text only mentions."""
    data = part.get("data")
    size = f", {len(data) * 3 // 4:,} bytes" if isinstance(data, str) else ""
    return f"({part['type']}, {_as_text(part.get('mimeType') or 'of unknown type')}{size})"


def _resource(part: dict[str, Any]) -> str:
    resource = part.get("resource")
    if not isinstance(resource, dict):
        return _as_text(part)
    if isinstance(resource.get("text"), str):
        return str(resource["text"])
    return f"(resource, {_as_text(resource.get('uri') or resource)})"


def _link(part: dict[str, Any]) -> str:
    told = [_as_text(part[name]) for name in ("name", "description") if part.get(name)]
    return f"({', '.join(['resource', _as_text(part.get('uri') or 'without a URI'), *told])})"


_DESCRIBED = {
    "text": _text,
    "image": _media,
    "audio": _media,
    "resource": _resource,
    "resource_link": _link,
}


def _pictures(parts: Sequence[Any]) -> tuple[Picture, ...]:
    return tuple(
        Picture(part["mimeType"], part["data"])
        for part in parts
        if isinstance(part, dict)
        and part.get("type") == "image"
        and isinstance(part.get("data"), str)
        and isinstance(part.get("mimeType"), str)
        and part["mimeType"].startswith("image/")
    )


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
