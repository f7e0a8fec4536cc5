"""Content of a tool's result: text for the model, and images; malformed results become text."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentpipe.core import caps
from agentpipe.core.outside import json_text

if TYPE_CHECKING:
    from collections.abc import Sequence


# What model providers accept: a maximum size, and types by their first bytes. A server may declare
# a wrong type, and providers refuse a request with one.
MAX_IMAGE_BYTES = 5_000_000 * 3 // 4
_KINDS = {
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/gif": re.compile(rb"GIF8[79]a"),
    "image/webp": re.compile(rb"RIFF....WEBP", re.DOTALL),
}


@dataclass(frozen=True, slots=True)
class Image:
    """An image for a model; ``data`` is base64."""

    media_type: str
    data: str


@dataclass(frozen=True, slots=True)
class ToolContent:
    """A tool's result, as a model gets it."""

    text: str
    images: tuple[Image, ...] = ()


def content_of(result: Any) -> ToolContent:
    """The content of a ``tools/call`` result, well formed or not."""
    if not isinstance(result, dict):
        return ToolContent(json_text(result))
    parts = _parts(result)
    text = "\n".join(map(_part, parts))
    failed = result.get("isError") not in (None, False)
    return ToolContent(f"Error: {text}" if failed else text, _images(parts))


def _parts(result: dict[str, Any]) -> Sequence[Any]:
    content = result.get("content")
    parts = content if isinstance(content, list) else [content] if content else []
    structured = result.get("structuredContent")
    if structured is None or any(map(_says_something, parts)):
        return parts
    return [structured]


def _says_something(part: Any) -> bool:
    empty = isinstance(part, dict) and part.get("type") == "text" and not part.get("text")
    return not empty and part not in ("", None)


def _part(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    describe = _DESCRIBED.get(kind) if isinstance(kind, str) else None
    return describe(part) if describe else json_text(part)


def _text(part: dict[str, Any]) -> str:
    return json_text(part.get("text", ""))


def _media(part: dict[str, Any]) -> str:
    """The text that mentions an image or audio."""
    data = part.get("data")
    size = f", {_bytes_of(data):,} bytes" if isinstance(data, str) else ""
    return f"({part['type']}, {json_text(part.get('mimeType') or 'of unknown type')}{size})"


def _bytes_of(data: str) -> int:
    return len(data.rstrip("=")) * 3 // 4


def _resource(part: dict[str, Any]) -> str:
    resource = part.get("resource")
    if not isinstance(resource, dict):
        return json_text(part)
    if isinstance(resource.get("text"), str):
        return str(resource["text"])
    return f"(resource, {json_text(resource.get('uri') or resource)})"


def _link(part: dict[str, Any]) -> str:
    words = [json_text(part[name]) for name in ("name", "description") if part.get(name)]
    return f"({', '.join(['resource', json_text(part.get('uri') or 'without a URI'), *words])})"


_DESCRIBED = {
    "text": _text,
    "image": _media,
    "audio": _media,
    "resource": _resource,
    "resource_link": _link,
}


def _images(parts: Sequence[Any]) -> tuple[Image, ...]:
    """The images that model servers accept; an unacceptable one would fail the whole request.

    The text mentions all images, including those beyond the caps.
    """
    given = [part for part in parts if isinstance(part, dict) and part.get("type") == "image"]
    taken: list[Image] = []
    room = caps.MAX_IMAGES_BYTES
    for image in filter(None, map(_image, given[: caps.MAX_IMAGES])):
        room -= len(image.data)
        if room >= 0:
            taken.append(image)
    return tuple(taken)


def _image(part: dict[str, Any]) -> Image | None:
    data = part.get("data")
    if not isinstance(data, str):
        return None
    try:
        content = base64.b64decode("".join(data.split()), validate=True)
    except ValueError:
        return None
    kind = next((name for name, begin in _KINDS.items() if begin.match(content)), None)
    if kind is None or len(content) > MAX_IMAGE_BYTES:
        return None
    return Image(kind, base64.b64encode(content).decode())
