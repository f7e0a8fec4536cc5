"""Whatever a tool returns, the model gets text, and only images that its provider accepts."""

from __future__ import annotations

import base64
import random
from typing import Any

import pytest

from agentpipe.core.outside import read_json
from agentpipe.engines.mcp import content
from agentpipe.engines.mcp.content import Image, content_of

NAMES = ("type", "text", "data", "mimeType", "resource", "uri", "blob", "content", "isError", "")
KINDS: tuple[Any, ...] = (
    "text",
    "image",
    "audio",
    "resource",
    "resource_link",
    "smell",
    "",
    None,
    5,
    [],
    {},
)
SCALARS: tuple[Any, ...] = (None, True, False, 0, -1.5, 2**70, "", "x", "\ufffd", "aGVsbG8=")
BEGINNINGS = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff\xe0",
    "image/gif": b"GIF89a",
    "image/webp": b"RIFF\n\0\0\0WEBP",
}


def anything(rng: random.Random, depth: int = 0) -> Any:
    chance = rng.random()
    if depth > 4 or chance < 0.4:
        return rng.choice(SCALARS)
    if chance < 0.6:
        return [anything(rng, depth + 1) for _ in range(rng.randrange(4))]
    names = rng.sample(NAMES, rng.randrange(len(NAMES)))
    return {"type": rng.choice(KINDS), **{name: anything(rng, depth + 1) for name in names}}


@pytest.mark.parametrize(
    "seed", [15, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(16, 20))]
)
def test_a_result_of_any_shape_is_text(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(1_000):
        result = anything(rng)
        if rng.random() < 0.8:
            result = {"content": result, "structuredContent": anything(rng)}
        shown = content_of(result)
        assert isinstance(shown.text, str)
        shown.text.encode()
        assert all(picture.media_type in BEGINNINGS for picture in shown.images)


def test_a_result_of_any_depth_is_text() -> None:
    deep = read_json(b'{"content": ' + b"[" * 190 + b"]" * 190 + b"}")
    assert content_of(deep).text.startswith("[[[")


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([], '{"a":1}'),
        (None, '{"a":1}'),
        ("", '{"a":1}'),
        ([{"type": "text", "text": ""}], '{"a":1}'),
        ([{"type": "text", "text": "one"}], "one"),
        ([{"type": "resource_link", "uri": "x:y"}], "(resource, x:y)"),
    ],
)
@pytest.mark.parametrize("failed", [False, True])
def test_structured_content_stands_in_for_text(parts: Any, text: str, *, failed: bool) -> None:
    result = {"content": parts, "structuredContent": {"a": 1}, "isError": failed}
    assert content_of(result).text == (f"Error: {text}" if failed else text)


def picture(data: bytes | str, mime_type: Any = "image/png") -> tuple[Image, ...]:
    encoded = data if isinstance(data, str) else base64.b64encode(data).decode()
    return content_of(
        {"content": [{"type": "image", "data": encoded, "mimeType": mime_type}]}
    ).images


@pytest.mark.parametrize("mime_type", ["image/png", "image/jpg", "text/html", None, 5])
@pytest.mark.parametrize("kind", BEGINNINGS)
def test_an_image_is_passed_on_as_what_its_bytes_are(kind: str, mime_type: Any) -> None:
    (found,) = picture(BEGINNINGS[kind] + b"rest", mime_type)
    assert found.media_type == kind


@pytest.mark.parametrize("data", ["", "no base64!", b"hello", b"<svg/>", b"RIFF\0\0\0\0WAVE", "éé"])
def test_what_no_provider_takes_is_only_mentioned(data: bytes | str) -> None:
    assert picture(data) == ()


def test_a_huge_image_is_only_mentioned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "MAX_IMAGE_BYTES", 20)
    assert picture(BEGINNINGS["image/gif"] + b"x" * 14)
    assert not picture(BEGINNINGS["image/gif"] + b"x" * 15)


def test_base64_in_lines_is_an_image() -> None:
    data = base64.encodebytes(BEGINNINGS["image/png"] + b"x" * 100).decode()
    assert "\n" in data
    assert len(picture(data)) == 1
