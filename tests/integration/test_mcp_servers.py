"""Failures and answers of MCP servers: a server's failure is never scored."""

from __future__ import annotations

import base64
import json
import sys
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.core.caps import MAX_SERVER_REQUESTS
from agentpipe.core.failures import (
    MAX_ERROR_CHARS,
    error_record,
    is_infra,
    is_permanent,
    rate_limit,
)
from agentpipe.core.redaction import Redactor
from tests.integration.llm_bench import KEY, MARK
from tests.llm_stub import LlmStub, Reply, call, say
from tests.mcp_http import McpStub, Sent
from tests.support import processes_with, wait_until

if TYPE_CHECKING:
    from tests.integration.llm_bench import Bench
    from tests.llm_stub import Request


def web(stub: McpStub, **more: Any) -> dict[str, Any]:
    return {"name": "web", "url": stub.url, **more}


def tool_texts(request: Request) -> list[str]:
    return [m["content"] for m in request.body["messages"] if m["role"] == "tool"]


def answers_by(tool: str, **arguments: Any) -> Any:
    """A model script that calls this tool, then answers with its result."""

    def script(request: Request) -> Reply:
        texts = tool_texts(request)
        return say(f"heard: {texts[0]}") if texts else call(tool, **arguments)

    return script


def heard(bench: Bench, server: dict[str, Any], tool: str, text: str = "", **config: Any) -> Any:
    """The tool result that the model got, or the error that ended the run."""
    with LlmStub(answers_by(f"{server['name']}__{tool}", text=text)) as model:
        (end,) = bench.ask(bench.engine(model.url, servers=[server], **config), "?")
    return end.removeprefix("heard: ") if isinstance(end, str) else end


# HTTP.


@pytest.mark.parametrize("streams", [False, True])
def test_tools_are_called_over_http(bench: Bench, *, streams: bool) -> None:
    with McpStub(streams=streams) as stub:
        server = web(stub, headers={"Authorization": "Bearer t"})
        assert heard(bench, server, "echo", "hi") == "echo hi"
        assert stub.deleted == stub.sessions
    assert {each["authorization"] for each in stub.headers} == {"Bearer t"}
    assert stub.headers[-1]["mcp-protocol-version"] == "2025-06-18"


def test_tools_are_called_over_the_older_transport(bench: Bench) -> None:
    with McpStub() as stub:
        server = {"name": "web", "url": stub.old_url, "type": "sse"}
        assert heard(bench, server, "echo", "hi") == "echo hi"


@pytest.mark.parametrize("status", [404, 400])
def test_a_server_that_forgot_the_session_gets_a_new_one_and_the_call_again(
    bench: Bench, status: int
) -> None:
    seen = 0

    def restarted(message: dict[str, Any]) -> Sent | None:
        nonlocal seen
        seen += message["method"] == "tools/call"
        return Sent(forget=True) if message["method"] == "tools/call" and seen == 1 else None

    with McpStub(restarted) as stub:
        stub.forgotten = status
        assert heard(bench, web(stub), "echo", "hi") == "echo hi"
    assert len(stub.calls()) == 2


def test_later_tasks_of_an_agent_survive_a_restart_of_the_server(bench: Bench) -> None:
    with McpStub() as stub, LlmStub(lambda r: _forgetful(stub, r)) as model:
        engine = bench.engine(model.url, servers=[web(stub)])
        assert bench.ask(engine, "a", "b", "c") == ["echo x"] * 3


def _forgetful(stub: McpStub, request: Request) -> Reply:
    texts = tool_texts(request)
    if not texts:
        return call("web__echo", text="x")
    stub.sessions.clear()
    return say(texts[0])


STATUSES = [
    (429, {"Retry-After": "7"}, False, 7),
    (503, {"Retry-After": "9"}, False, 9),
    (500, {}, False, None),
    (502, {}, False, None),
    (504, {"Retry-After": "8"}, False, 8),
    (401, {}, True, None),
    (403, {}, True, None),
]


@pytest.mark.parametrize("at", ["initialize", "tools/list", "tools/call"])
@pytest.mark.parametrize(("status", "headers", "permanent", "asked_s"), STATUSES)
def test_the_status_decides_what_a_refusal_means(
    bench: Bench,
    at: str,
    status: int,
    headers: dict[str, str],
    asked_s: float | None,
    *,
    permanent: bool,
) -> None:
    def refuse(message: dict[str, Any]) -> Sent | None:
        refused = Sent(status, b"not now", "text/plain", headers)
        return refused if message["method"] == at else None

    with McpStub(refuse) as stub:
        end = heard(bench, web(stub), "echo")
    assert f"HTTP {status}: not now" in str(end)
    assert (is_infra(end), is_permanent(end)) == (True, permanent)
    limit = rate_limit(end)
    assert (limit and limit.asked_s) == asked_s


def test_a_wrong_address_is_a_failure_of_the_set_up(bench: Bench) -> None:
    with McpStub(lambda _: Sent(404, b"no such page", "text/plain")) as stub:
        assert is_permanent(heard(bench, web(stub), "echo"))


def test_a_server_that_is_away_is_no_failure_of_the_set_up(bench: Bench) -> None:
    with McpStub() as stub:
        server = web(stub)
    end = heard(bench, server, "echo")
    assert (is_infra(end), is_permanent(end)) == (True, False)


def test_a_bad_call_costs_no_session(bench: Bench) -> None:
    def refuse(message: dict[str, Any]) -> Sent | None:
        bad = message["method"] == "tools/call" and message["params"]["arguments"]["text"] == "bad"
        return Sent(400, b"no such page") if bad else None

    script = [call("web__echo", text="bad"), call("web__echo", text="good"), say("done")]
    with McpStub(refuse) as stub, LlmStub(script) as model:
        assert bench.ask(bench.engine(model.url, servers=[web(stub)]), "?") == ["done"]
        assert len(stub.sessions) == 1
    assert tool_texts(model.requests[2]) == ["Error: HTTP 400: no such page", "echo good"]


def test_a_call_that_speaks_of_sessions_leaves_one_behind_it(bench: Bench) -> None:
    def refuse(message: dict[str, Any]) -> Sent | None:
        bad = message["method"] == "tools/call" and message["params"]["arguments"]["text"] == "bad"
        return Sent(400, b"no login session 'bad'") if bad else None

    script = [call("web__echo", text="bad"), call("web__echo", text="good"), say("done")]
    with McpStub(refuse) as stub, LlmStub(script) as model:
        stub.forgotten, stub.words_of_forgotten = 400, b"Missing Mcp-Session-Id"
        assert bench.ask(bench.engine(model.url, servers=[web(stub)]), "?") == ["done"]
    assert tool_texts(model.requests[2]) == [
        "Error: HTTP 400: no login session 'bad'",
        "echo good",
    ]


REFUSALS = [
    Sent(200, b'{"jsonrpc": "2.0", "id": ID, "error": {"code": -32603, "message": "full"}}'),
    Sent(503, b"full"),
    Sent(404, b"full"),
    Sent(202, b"full"),
]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_server_that_begins_no_new_session_is_no_answer(bench: Bench, refusal: Sent) -> None:
    begun = 0

    def restarted(message: dict[str, Any]) -> Sent | None:
        nonlocal begun
        begun += message["method"] == "initialize"
        if message["method"] == "initialize" and begun > 1:
            body = refusal.body.replace(b"ID", str(message["id"]).encode())
            return replace(refusal, body=body)
        return Sent(forget=True) if message["method"] == "tools/call" else None

    with McpStub(restarted) as stub:
        end = heard(bench, web(stub), "echo")
    assert ("holds no answer" if refusal.status == 202 else "full") in str(end)
    assert (is_infra(end), is_permanent(end)) == (True, False)


def test_a_redirect_within_a_server_is_followed(bench: Bench) -> None:
    with McpStub() as stub:
        moved = f"{stub.url}/?moved"
        stub.redirect = Sent(307, headers={"Location": "/mcp/?moved"})
        assert heard(bench, web(stub), "echo", "hi") == "echo hi"
        assert moved.endswith(stub.paths[-1])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_takes_no_credential_elsewhere(bench: Bench, status: int) -> None:
    with McpStub() as other, McpStub() as stub:
        stub.redirect = Sent(status, headers={"Location": f"{other.url}?token=t"})
        end = heard(bench, web(stub, headers={"X-Api-Key": "k"}), "echo")
        assert other.paths == []
    assert f"it redirects to {other.url}: name that URL" in str(end)
    assert is_permanent(end)


@pytest.mark.parametrize(
    ("sent", "permanent", "asked_s"),
    [
        (Sent(401, b"who?"), True, None),
        (Sent(404, b"no page"), True, None),
        (Sent(503, b"later", headers={"Retry-After": "9"}), False, 9),
        (Sent(200, b"<html>", "text/html"), False, None),
    ],
)
def test_the_status_counts_over_the_older_transport_too(
    bench: Bench, sent: Sent, asked_s: float | None, *, permanent: bool
) -> None:
    with McpStub() as stub:
        stub.instead_of_stream = sent
        end = heard(bench, {"name": "web", "url": stub.old_url, "type": "sse"}, "echo")
    assert (is_infra(end), is_permanent(end)) == (True, permanent)
    limit = rate_limit(end)
    assert (limit and limit.asked_s) == asked_s
    assert sent.status == 200 or f"HTTP {sent.status}" in str(end)


@pytest.mark.parametrize(("status", "permanent"), [(401, True), (404, False), (502, False)])
def test_a_refused_call_over_the_older_transport_fails_at_once(
    bench: Bench, status: int, *, permanent: bool
) -> None:
    def refuse(message: dict[str, Any]) -> Sent | None:
        return Sent(status, b"not now") if message["method"] == "tools/call" else None

    with McpStub(refuse) as stub:
        server = {"name": "web", "url": stub.old_url, "type": "sse"}
        begun = time.monotonic()
        end = heard(bench, server, "echo", tool_limit_s=60)
    assert time.monotonic() - begun < 30
    assert f"HTTP {status}: not now" in str(end)
    assert (is_infra(end), is_permanent(end)) == (True, permanent)


def test_a_credential_in_a_servers_words_is_masked_before_they_are_cut(bench: Bench) -> None:
    for padding in (280, MAX_ERROR_CHARS - 60):
        words = b"x" * padding + KEY.encode()
        sent = Sent(500, words)
        with McpStub(partial(_always, sent)) as stub:
            end = heard(bench, web(stub), "echo")
        message = error_record(end, Redactor((KEY,)))["message"]
        assert "xxx" in message
        assert KEY[:8] not in message


def _always(sent: Sent, _message: dict[str, Any]) -> Sent:
    return sent


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refusal_that_a_call_has_caused_is_for_the_model(bench: Bench, status: int) -> None:
    def refuse(message: dict[str, Any]) -> Sent | None:
        return Sent(status, b"too much") if message["method"] == "tools/call" else None

    with McpStub(refuse) as stub:
        assert heard(bench, web(stub), "echo") == f"Error: HTTP {status}: too much"


@pytest.mark.parametrize(
    "sent",
    [
        Sent(200, b"<html>Bad gateway</html>", "text/html"),
        Sent(200, b""),
        Sent(202),
        Sent(200, b"data: {", "text/event-stream"),
        Sent(200, b'{"jsonrpc": "2.0", "id": 999, "result": {}}'),
    ],
)
def test_a_response_without_an_answer_is_a_failure_of_the_service(bench: Bench, sent: Sent) -> None:
    with McpStub(lambda m: sent if m["method"] == "tools/call" else None) as stub:
        begun = time.monotonic()
        end = heard(bench, web(stub), "echo", tool_limit_s=60)
    assert is_infra(end)
    assert "unreadable answer" in str(end)
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
def test_a_response_that_breaks_off_is_a_failure_of_the_service(bench: Bench, kind: str) -> None:
    broken = Sent(200, b'data: {"jso', kind, {"Content-Length": "999", "Connection": "close"})
    with McpStub(lambda m: broken if m["method"] == "tools/call" else None) as stub:
        end = heard(bench, web(stub), "echo", tool_limit_s=60)
    assert is_infra(end)
    assert "MCP server 'web' was lost during a call: RemoteProtocolError" in str(end)


# Servers' answers.


@pytest.mark.parametrize("code", [-32000, -32001, -32603, 7])
def test_an_error_of_a_servers_own_is_for_the_model_whatever_its_code(
    bench: Bench, code: int
) -> None:
    assert heard(bench, bench.odd(), "error", str(code)) == "Error: the server's own words"


PNG = base64.b64encode(b"\x89PNG\r\n\x1a\nhello").decode()
IMAGE = {"type": "image", "mimeType": "image/png", "data": PNG}
RESULTS: dict[str, tuple[Any, str]] = {
    "structured only": ({"structuredContent": {"a": 1}}, '{"a":1}'),
    "structured error": ({"structuredContent": {"a": 1}, "isError": True}, 'Error: {"a":1}'),
    "empty content": ({"content": [], "structuredContent": [1]}, "[1]"),
    "no content": ({}, ""),
    "a string": ({"content": "plain"}, "plain"),
    "an object": ({"content": {"type": "text", "text": "one"}}, "one"),
    "strings": ({"content": ["a", "b"]}, "a\nb"),
    "text is a number": ({"content": [{"type": "text", "text": 5}]}, "5"),
    "no text": ({"content": [{"type": "text"}]}, ""),
    "null": (None, "null"),
    "a list": ([1], "[1]"),
    "link": (
        {"content": [{"type": "resource_link", "uri": "file:///a.txt", "name": "a"}]},
        "(resource, file:///a.txt, a)",
    ),
    "resource": (
        {"content": [{"type": "resource", "resource": {"uri": "file:///a", "text": "inside"}}]},
        "inside",
    ),
    "blob": (
        {"content": [{"type": "resource", "resource": {"uri": "file:///a", "blob": "eA=="}}]},
        "(resource, file:///a)",
    ),
    "image": ({"content": [IMAGE]}, "(image, image/png, 13 bytes)"),
    "audio": (
        {"content": [{"type": "audio", "mimeType": "audio/wav", "data": "aGVsbG8="}]},
        "(audio, audio/wav, 5 bytes)",
    ),
    "unknown kind": ({"content": [{"type": "smell", "of": "tea"}]}, '{"type":"smell","of":"tea"}'),
    "odd isError": ({"content": [{"type": "text", "text": "x"}], "isError": "yes"}, "Error: x"),
    "numbers": ({"content": [1, None, True]}, "1\nnull\ntrue"),
}


@pytest.mark.parametrize(("result", "text"), RESULTS.values(), ids=RESULTS)
def test_whatever_a_tool_returns_is_text_for_the_model(
    bench: Bench, result: Any, text: str
) -> None:
    assert heard(bench, bench.odd(), "result", json.dumps(result)) == text


@pytest.mark.parametrize(("images", "shown"), [(None, True), (False, False)])
def test_images_go_to_models_that_take_them(
    bench: Bench, *, images: bool | None, shown: bool
) -> None:
    with LlmStub([call("odd__result", text=json.dumps({"content": [IMAGE]})), say("a")]) as model:
        config = {} if images is None else {"images": images}
        bench.ask(bench.engine(model.url, servers=[bench.odd()], **config), "?")
    assert (f"data:image/png;base64,{PNG}" in model.requests[1].text) is shown


LINES: dict[str, tuple[bytes, str]] = {
    "a broken byte": (b'"a\xffb"', "a\ufffdb"),
    "a lone surrogate": (b'"a\\ud800b"', "a\ufffdb"),
    "a pair": (b'"\\ud83d\\ude00"', "\U0001f600"),
    "encoded surrogate": (b'"a\xed\xa0\x80b"', "a\ufffd\ufffd\ufffdb"),
}


@pytest.mark.parametrize(("text", "said"), LINES.values(), ids=LINES)
def test_text_of_a_server_is_made_valid(bench: Bench, text: bytes, said: str) -> None:
    line = b'{"jsonrpc":"2.0","id":ID,"result":{"content":[{"type":"text","text":' + text + b"}]}}"
    assert heard(bench, bench.odd(), "line", base64.b64encode(line).decode()) == said


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","id":ID,"result":{"content":[{"type":"text","te',
        b'{"jsonrpc":"2.0","id":ID}',
        b'{"id":ID,"result"}',
        b'{"jsonrpc":"2.0","id":"ID"}',
        b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"parse error"}}',
        b'{"jsonrpc":"2.0","result":{"content":[',
    ],
)
def test_a_broken_reply_fails_its_call_at_once(bench: Bench, line: bytes) -> None:
    begun = time.monotonic()
    end = heard(bench, bench.odd(), "line", base64.b64encode(line).decode(), tool_limit_s=60)
    assert is_infra(end)
    assert "unreadable answer" in str(end)
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize(
    "arguments", ['{"text": "\\ud800"}', '{"text": 1180591620717411303424}', "DEEP"]
)
def test_odd_arguments_reach_the_tool(bench: Bench, arguments: str) -> None:
    deep = '{"text": ' + "[" * 190 + "]" * 190 + "}"
    given = arguments.replace("DEEP", deep)
    with McpStub() as stub, LlmStub([raw_call("web__echo", given, "tool_calls"), say("a")]) as llm:
        assert bench.ask(bench.engine(llm.url, servers=[web(stub)]), "?") == ["a"]
    assert len(stub.calls()) == 1


@pytest.mark.parametrize(
    ("cap", "value"),
    [
        ("MAX_TOOLS", 2),
        ("MAX_TOOL_PAGES", 2),
        ("MAX_TOOL_NAME_CHARS", 10),
        ("MAX_DESCRIPTION_CHARS", 500),
        ("MAX_SCHEMA_BYTES", 500),
        ("MAX_TOOL_LIST_BYTES", 2_000),
    ],
)
def test_a_list_of_tools_has_caps(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, cap: str, value: int
) -> None:
    monkeypatch.setattr(f"agentpipe.core.caps.{cap}", value)
    tool = {
        "name": "x" * 20,
        "description": "y" * 600,
        "inputSchema": {"type": "object", "description": "z" * 600},
    }

    def endless(asked: dict[str, Any]) -> Sent | None:
        if asked["method"] != "tools/list":
            return None
        result = {"tools": [tool], "nextCursor": "next"}
        return Sent(
            200, json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}).encode()
        )

    with McpStub(endless) as stub:
        end = heard(bench, web(stub), "echo")
    assert is_infra(end)
    assert f"it sent more than {value:,}" in str(end)
    assert f"({cap})" in str(end)
    assert len(stub.messages) < 10


def test_a_schema_that_takes_for_ever_to_apply_costs_nothing(bench: Bench) -> None:
    schema = {
        "type": "object",
        "properties": {"text": {"type": "string", "pattern": "^(a+)+$"}},
        "$ref": "#/$defs/a",
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"$ref": "#/$defs/a"}] * 9}},
    }

    def script(asked: dict[str, Any]) -> Sent | None:
        if asked["method"] != "tools/list":
            return None
        tool = {"name": "echo", "inputSchema": schema, "outputSchema": schema}
        reply = {"jsonrpc": "2.0", "id": asked["id"], "result": {"tools": [tool]}}
        return Sent(200, json.dumps(reply).encode())

    with McpStub(script) as stub:
        assert heard(bench, web(stub), "echo", "a" * 100 + "!") == f"echo {'a' * 100}!"


def test_a_server_that_asks_without_end_gets_few_answers_at_once(bench: Bench) -> None:
    ping = b'{"jsonrpc":"2.0","id":7,"method":"ping"}'

    def script(asked: dict[str, Any]) -> Sent | None:
        if asked.get("method") != "tools/call":
            return None
        content = {"jsonrpc": "2.0", "id": asked["id"], "result": {"content": "a"}}
        pings = b",".join([ping] * 5_000)
        return Sent(200, b"[" + pings + b"," + json.dumps(content).encode() + b"]")

    with McpStub(script) as stub:
        assert heard(bench, web(stub), "echo") == "a"
    answers = [message for message in stub.messages if "method" not in message]
    assert len(answers) <= MAX_SERVER_REQUESTS


# Sessions.


def test_a_server_that_ended_while_it_was_idle_is_opened_again(bench: Bench) -> None:
    answer = answers_by("odd__leave")

    def script(request: Request) -> Reply:
        if tool_texts(request):
            wait_until(lambda: not processes_with(MARK), 10, "the server has ended")
        reply: Reply = answer(request)
        return reply

    with LlmStub(script) as model:
        engine = bench.engine(model.url, servers=[bench.odd()], sessions="agent")
        assert bench.ask(engine, "a", "b", "c") == ["heard: bye"] * 3


@pytest.mark.parametrize(
    ("sent", "permanent", "message"),
    [
        (Sent(401, b"who?"), True, "HTTP 401: who?"),
        (Sent(200, b'{"id": ID, "error": {"message": "none"}}'), False, "list its tools: none"),
        (Sent(200, b'{"id": ID, "result": []}'), False, "its list of tools is not a list"),
    ],
)
def test_a_list_of_tools_that_cannot_be_read_again_is_no_answer(
    bench: Bench, sent: Sent, message: str, *, permanent: bool
) -> None:
    listed = 0
    changed = b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}'

    def script(asked: dict[str, Any]) -> Sent | None:
        nonlocal listed
        listed += asked["method"] == "tools/list"
        number = str(asked.get("id")).encode()
        if asked["method"] == "tools/call":
            reply = b'{"jsonrpc":"2.0","id":' + number + b',"result":{"content":"a"}}'
            return Sent(200, b"[" + changed + b"," + reply + b"]")
        if asked["method"] == "tools/list" and listed > 1:
            return replace(sent, body=sent.body.replace(b"ID", number))
        return None

    with McpStub(script) as stub:
        end = heard(bench, web(stub), "echo")
    assert message in str(end)
    assert (is_infra(end), is_permanent(end)) == (True, permanent)


def test_a_server_that_ends_once_it_is_ready_is_not_started_for_ever(bench: Bench) -> None:
    assert is_infra(heard(bench, bench.odd("brief"), "echo"))


def test_tools_that_appear_during_a_run_are_offered(bench: Bench) -> None:
    with LlmStub([call("odd__grow"), call("odd__late", text="x"), say("done")]) as model:
        assert bench.ask(bench.engine(model.url, servers=[bench.odd()]), "?") == ["done"]
    offered = [
        {tool["function"]["name"] for tool in request.body["tools"]} for request in model.requests
    ]
    assert ["odd__late" in names for names in offered] == [False, True, True]


def test_a_slow_tool_is_named_with_its_limit(bench: Bench) -> None:
    end = heard(bench, bench.odd(), "freeze", tool_limit_s=0.5)
    assert str(end) == (
        "the tool 'freeze' of MCP server 'odd' did not answer within 0.5 s (tool_limit_s)"
    )
    assert is_infra(end)


# Calls.


@pytest.mark.parametrize(
    ("arguments", "finish_reason", "told"),
    [
        ('{"text": ', "tool_calls", "call it again"),
        ("[1]", "tool_calls", "not an object; call it again"),
        ('"hi"', "tool_calls", "not an object; call it again"),
        ('{"text": NaN}', "tool_calls", "call it again"),
        ('{"text": [-Infinity, 1e999]}', "tool_calls", "call it again"),
    ],
)
def test_a_call_with_broken_arguments_is_not_made(
    bench: Bench, arguments: str, finish_reason: str, told: str
) -> None:
    script = [raw_call("web__echo", arguments, finish_reason), say("sorry")]
    with McpStub() as stub, LlmStub(script) as model:
        assert bench.ask(bench.engine(model.url, servers=[web(stub)]), "?") == ["sorry"]
    (text,) = tool_texts(model.requests[1])
    assert text.startswith("Error: nothing was called, the arguments are not a JSON object: ")
    assert told in text
    assert stub.calls() == []


@pytest.mark.parametrize("arguments", ['{"text": ', "", "{}", '{"text": "he"}'])
def test_a_call_in_which_the_answer_was_cut_is_not_made(bench: Bench, arguments: str) -> None:
    whole = raw_call("web__echo", '{"text": "first"}', "length")
    cut = raw_call("web__echo", arguments, "length")
    replies = [json.loads(reply.raw or b"") for reply in (whole, cut)]
    messages = [reply["choices"][0]["message"] for reply in replies]
    messages[0]["tool_calls"] += messages[1]["tool_calls"]
    script = [Reply(raw=json.dumps(replies[0]).encode()), say("in parts, then")]
    with McpStub() as stub, LlmStub(script) as model:
        bench.ask(bench.engine(model.url, servers=[web(stub)]), "?")
    called, told = tool_texts(model.requests[1])
    assert "first" in called
    assert told.startswith("Error: nothing was called: your answer was cut at its limit of tokens")
    assert [each["arguments"] for each in stub.calls()] == [{"text": "first"}]


@pytest.mark.parametrize("arguments", ["", "null", "{}", " ", None])
def test_no_arguments_are_an_empty_object(bench: Bench, arguments: str | None) -> None:
    script = [raw_call("web__echo", arguments, "tool_calls", call_id=None), say("done")]
    with McpStub() as stub, LlmStub(script) as model:
        assert bench.ask(bench.engine(model.url, servers=[web(stub)]), "?") == ["done"]
    assert [each["arguments"] for each in stub.calls()] == [{}]
    asked, answered = model.requests[1].body["messages"][-2:]
    assert answered["tool_call_id"] == asked["tool_calls"][0]["id"]
    assert answered["tool_call_id"]


def raw_call(
    name: str, arguments: str | None, finish_reason: str, call_id: str | None = "call-1"
) -> Reply:
    function = {"name": name, "arguments": arguments}
    message = {"role": "assistant", "content": None}
    calls = [{"id": call_id, "type": "function", "function": function}]
    choice = {"message": {**message, "tool_calls": calls}, "finish_reason": finish_reason}
    return Reply(raw=json.dumps({"choices": [choice]}).encode())


def test_tools_whose_names_meet_are_told_apart(bench: Bench) -> None:
    def listed(message: dict[str, Any]) -> Sent | None:
        if message["method"] != "tools/list":
            return None
        names = ["delete.item", "delete_item", "delete/item", "удалить", "создать", "echo"]
        tools = [{"name": name, "inputSchema": {"type": "object"}} for name in names]
        reply = {"jsonrpc": "2.0", "id": message["id"], "result": {"tools": tools}}
        return Sent(200, json.dumps(reply).encode())

    with McpStub(listed) as stub, LlmStub(_calls_each) as model:
        assert bench.ask(bench.engine(model.url, servers=[web(stub)]), "?") == ["done"]
    offered = [tool["function"]["name"] for tool in model.requests[0].body["tools"]]
    assert len(set(offered)) == 6
    assert "web__echo" in offered
    called = [each["name"] for each in stub.calls()]
    assert sorted(called) == sorted(
        ["delete.item", "delete_item", "delete/item", "удалить", "создать", "echo"]
    )


def _calls_each(request: Request) -> Reply:
    done = len(tool_texts(request))
    names = [tool["function"]["name"] for tool in request.body["tools"]]
    return call(names[done]) if done < len(names) else say("done")


def test_schemas_reach_the_model_as_the_server_gave_them(bench: Bench) -> None:
    schema = {"type": "object", "additionalProperties": True, "$defs": {"a": {"type": "null"}}}

    def listed(message: dict[str, Any]) -> Sent | None:
        tools = [{"name": "free", "description": "any", "inputSchema": schema}]
        reply = {"jsonrpc": "2.0", "id": message.get("id"), "result": {"tools": tools}}
        return Sent(200, json.dumps(reply).encode()) if message["method"] == "tools/list" else None

    with McpStub(listed) as stub, LlmStub([say("a")]) as model:
        bench.ask(bench.engine(model.url, servers=[web(stub)]), "?")
    (tool,) = model.requests[0].body["tools"]
    assert tool["function"]["parameters"] == schema


def test_a_server_written_with_the_protocols_own_library_is_used(bench: Bench) -> None:
    program = (
        "from mcp.server.mcpserver import MCPServer\n"
        "server = MCPServer('sums')\n"
        "@server.tool()\n"
        "def add(a: int, b: int) -> int: return a + b\n"
        "server.run('stdio')\n"
    )
    server = {"name": "sums", "command": sys.executable, "args": ["-c", program]}
    with LlmStub([call("sums__add", a=2, b=3), say("done")]) as model:
        assert bench.ask(bench.engine(model.url, servers=[server]), "?") == ["done"]
    assert tool_texts(model.requests[1]) == ["5"]
