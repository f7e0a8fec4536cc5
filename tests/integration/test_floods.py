"""Endless responses of models and MCP servers: the run fails, and memory stays bounded.

The caps are the real ones; peak memory is measured in a separate process, with a wide limit.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.floods import (
    BODIES,
    EVENTS,
    GZIP,
    STREAMS,
    ZEROS,
    Flood,
    FloodServer,
    endless,
    packed,
)
from tests.integration.peak_memory import ask
from tests.llm_stub import LlmStub, call, say

if TYPE_CHECKING:
    from tests.integration.peak_memory import End

pytestmark = pytest.mark.long

MODELS = {"openai": "openai:gpt-4o-mini", "anthropic": "anthropic:claude-sonnet-4-5"}
# Without caps the process would take all memory: 64 MiB become gigabytes.
MAX_GROWN_MIB = 700


def assert_capped(end: End, *caps: str) -> None:
    assert end.infra, end.text
    assert any(cap in end.text for cap in caps), end.text
    assert end.grown_mib < MAX_GROWN_MIB


@pytest.mark.parametrize("name", BODIES)
def test_no_body_of_a_model_fills_the_memory(name: str) -> None:
    with FloodServer(BODIES[name]) as server:
        end = ask(server.url, model=MODELS["openai"])
    assert_capped(end, "MAX_BODY_BYTES", "MAX_BODY_LINES", "MAX_MESSAGE_BYTES", "MAX_ENCODINGS")


@pytest.mark.parametrize("name", STREAMS)
def test_no_stream_of_a_model_fills_the_memory(name: str) -> None:
    with FloodServer(STREAMS[name]) as server:
        end = ask(server.url, model=MODELS["openai"], stream=True)
    assert_capped(end, "MAX_BODY_BYTES", "MAX_BODY_LINES")


@pytest.mark.parametrize("transport", ["http", "sse"])
@pytest.mark.parametrize("name", [*BODIES, "comments"])
def test_no_body_of_a_server_fills_the_memory(name: str, transport: str) -> None:
    with FloodServer({**BODIES, **STREAMS}[name]) as server, LlmStub([say("a")]) as model:
        web = {"name": "web", "url": server.url, "transport": transport}
        end = ask(model.url, servers=[web], start_limit_s=8)
    late = "start_limit_s"  # An SSE stream can be silent forever.
    assert_capped(
        end, "MAX_BODY_BYTES", "MAX_BODY_LINES", "MAX_MESSAGE_BYTES", "MAX_ENCODINGS", late
    )


@pytest.mark.parametrize(
    ("parts", "cap"),
    [
        ("'x' * 65_536", "MAX_MESSAGE_BYTES"),
        ("('x' * 99 + chr(10)) * 1_000", "MAX_UNASKED_BYTES"),
        (
            '(\'{"jsonrpc":"2.0","id":7,"method":"ping"}\' + chr(10)) * 1_000',
            "MAX_UNASKED_BYTES MAX_UNREAD_MESSAGES",
        ),
    ],
)
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_no_output_of_a_server_fills_the_memory(parts: str, cap: str, stream: str) -> None:
    code = f"import sys\nwhile True: sys.{stream}.write({parts})"
    server = {"name": "odd", "command": sys.executable, "args": ["-c", code]}
    late_s = 5 if stream == "stderr" else 150
    with LlmStub([say("a")]) as model:
        end = ask(model.url, servers=[server], start_limit_s=late_s)
    assert_capped(end, *(["start_limit_s"] if stream == "stderr" else cap.split()))


def test_no_flood_of_a_stream_without_an_answer_fills_the_memory() -> None:
    note = b'data: {"jsonrpc":"2.0","method":"notifications/message"}\n\n'
    flood = Flood(endless(note, b"event: endpoint\ndata: /v1\n\n"), "text/event-stream")
    with FloodServer(flood) as server, LlmStub([say("a")]) as model:
        web = {"name": "web", "url": server.url, "transport": "sse"}
        end = ask(model.url, servers=[web], start_limit_s=60)
    assert_capped(end, "MAX_UNASKED_BYTES", "MAX_BODY_BYTES", "MAX_BODY_LINES", "MAX_MESSAGE_BYTES")


def test_a_stream_that_is_encoded_twice_is_refused_before_it_is_decoded() -> None:
    flood = Flood(packed(ZEROS, GZIP, 2), EVENTS, headers={"Content-Encoding": "gzip, gzip"})
    with FloodServer(flood) as server, LlmStub([say("a")]) as model:
        web = {"name": "web", "url": server.url, "transport": "sse"}
        end = ask(model.url, servers=[web], start_limit_s=60)
    assert_capped(end, "MAX_ENCODINGS")


def grown_by_images(**config: Any) -> End:
    code = SERVER_OF_IMAGES.format(number=200)
    server = {"name": "odd", "command": sys.executable, "args": ["-c", code]}
    with LlmStub([*[call("odd__look")] * 5, say("a")]) as model:
        return ask(model.url, servers=[server], model="openai:gpt-4o", **config)


SERVER_OF_IMAGES = """
import base64, json, sys
data = base64.b64encode(b"\\x89PNG\\r\\n\\x1a\\n" + bytes(200_000)).decode()
image = {{"type": "image", "mimeType": "image/png", "data": data}}
results = {{
    "initialize": {{"protocolVersion": "2025-06-18", "capabilities": {{}},
                    "serverInfo": {{"name": "x", "version": "1"}}}},
    "tools/list": {{"tools": [{{"name": "look"}}]}},
    "tools/call": {{"content": [image] * {number}}},
}}
for line in sys.stdin:
    asked = json.loads(line)
    if "id" in asked:
        result = results.get(asked["method"], {{}})
        print(json.dumps({{"jsonrpc": "2.0", "id": asked["id"], "result": result}}), flush=True)
"""


def test_a_servers_images_do_not_fill_the_memory() -> None:
    end = grown_by_images()
    assert (end.text, end.infra) == ("a", False) or "MAX_REQUEST_BYTES" in end.text
    assert end.grown_mib < MAX_GROWN_MIB
