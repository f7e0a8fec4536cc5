"""Possible answers of a model server, and the outcome of the run."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from agentpipe.core import caps
from agentpipe.core.failures import RateLimit, is_infra, is_permanent, rate_limit
from agentpipe.core.task import Task
from agentpipe.errors import AgentFailed, RunLimitExceeded
from tests.integration.llm_bench import KEY
from tests.llm_stub import LlmStub, Reply, call, fail, say, send

if TYPE_CHECKING:
    from tests.integration.llm_bench import Bench
    from tests.integration.project import Project
    from tests.llm_stub import Request

MODELS = {"openai": "openai:gpt-4o-mini", "anthropic": "anthropic:claude-sonnet-4-5"}
KEYS = {"OPENAI_API_KEY": KEY, "ANTHROPIC_API_KEY": KEY}
MAX_TRACE_BYTES = 2_000_000


class Way:
    """A protocol, with or without streaming."""

    def __init__(self, protocol: str, *, stream: bool) -> None:
        self.protocol, self.stream = protocol, stream

    def ask(self, bench: Bench, replies: list[Reply], *tasks: Task, **config: Any) -> list[Any]:
        """One agent's answer or error for each task; sets ``requests`` to what the agent sent."""
        with LlmStub(replies) as stub:
            config = {"model": MODELS[self.protocol], "stream": self.stream, **config}
            engine = bench.engine(stub.url, **config)
            ends = bench.ask(engine, *(tasks or (Task(question="?"),)), env=KEYS)
        self.requests = stub.requests
        return ends


def _long(protocol: str) -> Any:
    return pytest.param(protocol, marks=pytest.mark.long)


@pytest.fixture(params=["openai", _long("openai stream"), _long("anthropic"), "anthropic stream"])
def way(request: pytest.FixtureRequest) -> Way:
    """Each protocol, whole and streamed."""
    protocol, _, stream = request.param.partition(" ")
    return Way(protocol, stream=bool(stream))


@pytest.fixture(params=["openai", "anthropic"])
def whole(request: pytest.FixtureRequest) -> Way:
    """Each protocol, not streamed."""
    return Way(request.param, stream=False)


OPENAI = Way("openai", stream=False)

# Finish reasons.


@pytest.mark.parametrize(
    ("reason", "stop"),
    [
        ("", "stop"),
        ("length", "length"),
        ("max_tokens", "length"),
        ("model_length", "length"),
        ("content_filter", "content_filter"),
        ("refusal", "refusal"),
        ("stop_sequence", "stop"),
        ("eos", "stop"),
    ],
)
def test_an_answer_says_why_it_ended(bench: Bench, way: Way, reason: str, stop: str) -> None:
    assert way.ask(bench, [say("so far", finish=reason)]) == ["so far"]
    assert bench.stop == stop
    (record,) = bench.records("llm")
    usual = "stop" if way.protocol == "openai" else "end_turn"
    assert record["finish_reason"] == (reason or usual)


def test_an_answer_without_a_reason_is_one_whose_end_is_not_known(bench: Bench, whole: Way) -> None:
    assert whole.ask(bench, [say("all of it", finish=None)]) == ["all of it"]
    assert bench.stop is None


@pytest.mark.parametrize("text", ["", None])
@pytest.mark.parametrize("reason", ["length", "content_filter", "refusal"])
def test_an_empty_answer_that_was_cut_or_withheld_is_scored(
    bench: Bench, way: Way, reason: str, text: str | None
) -> None:
    assert way.ask(bench, [say(text, finish=reason)]) == [""]
    assert bench.stop == reason


def test_an_empty_answer_is_none_if_the_model_was_done(bench: Bench, way: Way) -> None:
    (end,) = way.ask(bench, [say(" ")])
    assert (end.kind, end.infra) == ("NoAnswer", False)


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_is_an_answer(bench: Bench, *, stream: bool) -> None:
    refusal = Reply({"role": "assistant", "content": None, "refusal": "I can't help with that."})
    assert Way("openai", stream=stream).ask(bench, [refusal]) == ["I can't help with that."]
    assert bench.stop == "refusal"


@pytest.mark.parametrize(
    "reason", ["error", "failed", "cancelled", "timeout", "MALFORMED_FUNCTION_CALL", "abort"]
)
def test_a_failure_in_the_middle_of_an_answer_is_one_of_the_service(
    bench: Bench, way: Way, reason: str
) -> None:
    (end,) = way.ask(bench, [say("so far", finish=reason)])
    assert (end.kind, end.infra, end.permanent) == ("IncompleteResponse", True, False)


def test_an_unknown_reason_says_nothing_of_the_end(bench: Bench, way: Way) -> None:
    assert way.ask(bench, [say("all of it", finish="strange")]) == ["all of it"]
    assert bench.stop is None


@pytest.mark.parametrize(
    ("protocol", "word"), [("openai", "tool_calls"), ("anthropic", "tool_use")]
)
@pytest.mark.parametrize("stream", [False, True])
def test_calls_that_got_lost_are_a_failure_of_the_service(
    bench: Bench, protocol: str, word: str, *, stream: bool
) -> None:
    (end,) = Way(protocol, stream=stream).ask(bench, [say("I will look.", finish=word)])
    assert (end.kind, end.infra) == ("IncompleteResponse", True)


@pytest.mark.parametrize("protocol", ["openai", "anthropic"])
def test_a_stream_without_an_end_is_no_answer(bench: Bench, protocol: str) -> None:
    (end,) = Way(protocol, stream=True).ask(bench, [say("so far", unended=True)])
    assert (end.kind, end.infra) == ("IncompleteResponse", True)
    assert "the stream ended before the answer did" in str(end)


@pytest.mark.parametrize("stream", [False, True])
def test_a_paused_turn_goes_on(bench: Bench, *, stream: bool) -> None:
    way = Way("anthropic", stream=stream)
    assert way.ask(bench, [say("Let me see.", finish="pause_turn"), say("42")]) == ["42"]
    _, second = way.requests
    assert [message["role"] for message in second.body["messages"]] == ["user", "assistant"]
    assert second.body["messages"][1]["content"] == [{"type": "text", "text": "Let me see."}]


def test_a_model_that_only_pauses_reaches_a_limit(bench: Bench) -> None:
    way = Way("anthropic", stream=False)
    (end,) = way.ask(bench, [say("Hm.", finish="pause_turn")], max_iterations=3)
    assert isinstance(end, RunLimitExceeded)


def test_a_full_context_window_is_a_limit(bench: Bench, way: Way) -> None:
    (end,) = way.ask(bench, [say("so far", finish="model_context_window_exceeded")])
    assert isinstance(end, RunLimitExceeded)
    assert "context window" in str(end)


@pytest.mark.parametrize(
    "error",
    [
        {"code": "context_length_exceeded", "message": "Too long."},
        # From OpenAI and vLLM, Anthropic, Mistral, Gemini, xAI, Groq, SGLang, llama.cpp.
        {"message": "This model's maximum context length is 4096 tokens. However, you asked for"},
        {"type": "invalid_request_error", "message": "prompt is too long: 208310 tokens > 200000"},
        {"message": "input length and `max_tokens` exceed context limit: 199000 + 8192 > 200000"},
        {"message": "Prompt contains 65673 tokens, too large for model with 32768 maximum context"},
        {"message": "The input token count (2000000) exceeds the maximum number of tokens allowed"},
        {"message": "This model's maximum prompt length is 131072 but the request contains 537812"},
        {"message": "Please reduce the length of the messages or completion."},
        {"message": "The input (9000 tokens) is longer than the model's context length (8192)."},
        {"message": "the request exceeds the available context size. try increasing it"},
        # vLLM's engine, TGI, DashScope, Moonshot, LM Studio, MiniMax, Ollama, Poolside, Vertex.
        {"message": "The decoder prompt (length 5016) is longer than the maximum model length of"},
        {"message": "max_tokens must be at least 1, got -186."},
        {"message": "The prompt (total length 25938) is too long to fit into the model (context"},
        {"message": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096."},
        {"message": "Input validation error: `inputs` must have less than 4096 tokens."},
        {"message": "Range of input length should be [1, 30720]"},
        {"message": "Invalid request: Your request exceeded model token limit: 8192"},
        {"message": "The number of tokens to keep is greater than the context length."},
        {"message": "invalid params, context window exceeds limit (2013)"},
        {"message": "prompt too long; exceeded max context length by 12 tokens"},
        {"message": "Input length 131393 exceeds the maximum allowed input length of 131040."},
        {"message": "Input tokens exceed the configured limit of 272000 tokens."},
        {"message": "the input token count is 32825 but model only supports up to 32768"},
    ],
)
def test_a_conversation_beyond_the_context_window_is_a_limit(
    bench: Bench, whole: Way, error: dict[str, Any]
) -> None:
    (end,) = whole.ask(bench, [fail(400, {"error": error})])
    assert isinstance(end, RunLimitExceeded)
    assert error["message"] in str(end)


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens must be at least 1, got 0.",
        "max_tokens must be at least 1, got -1.",
        "max_tokens is greater than the context length",
        "tool description exceeds the maximum allowed input length of 1024",
        "Range of max_tokens should be [1, 8192]",
        "temperature exceeds the maximum allowed value of 2",
    ],
)
def test_a_wrong_setting_is_no_full_context_window(bench: Bench, whole: Way, text: str) -> None:
    (end,) = whole.ask(bench, [fail(400, {"error": {"message": text}})])
    assert isinstance(end, AgentFailed)
    assert not end.infra


# Fields that the engine does not need.


USELESS: list[dict[str, Any]] = [
    {"id": None},
    {"object": None},
    {"created": 1.5},
    {"model": None},
    {"usage": None},
    {"usage": {"prompt_tokens": None, "completion_tokens": "five", "input_tokens": None}},
    {
        "usage": {
            "prompt_tokens": 10,
            "prompt_tokens_details": None,
            "cache_read_input_tokens": None,
        }
    },
    {"role": None, "type": None, "service_tier": 7, "error": None},
]


@pytest.mark.parametrize("more", USELESS)
def test_fields_that_nobody_needs_cost_no_run(bench: Bench, way: Way, more: dict[str, Any]) -> None:
    if way.protocol == "anthropic" and way.stream:
        more = {name: value for name, value in more.items() if name != "type"}
    assert way.ask(bench, [say("42", more=more)]) == ["42"]
    assert bench.stop == "stop"


@pytest.mark.parametrize(
    "choice",
    [
        {"message": {"content": "42"}, "finish_reason": "stop"},
        {"index": None, "message": {"role": None, "content": "42"}, "finish_reason": "stop"},
        {"index": "0", "message": {"content": [{"type": "text", "text": "42"}]}, "logprobs": 1},
        {"message": {"content": "42", "tool_calls": None, "refusal": None, "audio": None}},
        {"message": {"content": "42", "tool_calls": []}, "finish_reason": "stop"},
    ],
)
def test_a_choice_needs_only_its_text(bench: Bench, choice: dict[str, Any]) -> None:
    assert OPENAI.ask(bench, [send({"choices": [choice]})]) == ["42"]


@pytest.mark.parametrize(
    ("more", "counted"), [({"usage": None}, None), ({"usage": {"prompt_tokens": 3}}, 3), ({}, 10)]
)
def test_usage_is_what_was_counted(bench: Bench, more: dict[str, Any], counted: int | None) -> None:
    OPENAI.ask(bench, [say("42", more=more)])
    usage = bench.tracer.usage.to_dict()
    assert (usage["requests"], usage.get("input_tokens")) == (1, counted)


def test_a_call_may_come_with_a_null_id_or_as_an_object(bench: Bench) -> None:
    function = {"name": "odd__echo", "arguments": {"text": "hi"}}
    first = Reply({"content": None, "tool_calls": [{"id": None, "function": function}]})
    assert OPENAI.ask(bench, [first, say("done")], servers=[bench.odd()]) == ["done"]
    _, asked, answered = OPENAI.requests[1].body["messages"]
    (sent,) = asked["tool_calls"]
    assert sent["id"] == answered["tool_call_id"]
    assert sent["id"]
    assert json.loads(sent["function"]["arguments"]) == {"text": "hi"}
    assert answered["content"] == "hi"


@pytest.mark.parametrize("index", [0, None])
def test_two_calls_of_a_stream_are_two_though_it_repeats_the_index(
    bench: Bench, index: int | None
) -> None:
    def part(number: int, text: str) -> dict[str, Any]:
        arguments = json.dumps({"text": text})
        function = {"name": "odd__echo", "arguments": arguments}
        calls = [{"index": index, "id": f"c-{number}", "function": function}]
        return {"choices": [{"delta": {"tool_calls": calls}}]}

    end = {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}
    way = Way("openai", stream=True)
    first = Reply(events=[part(1, "one"), part(2, "two"), end, b"[DONE]"])
    assert way.ask(bench, [first, say("done")], servers=[bench.odd()]) == ["done"]
    results = [m["content"] for m in way.requests[1].body["messages"] if m["role"] == "tool"]
    assert results == ["one", "two"]


def test_calls_work_in_each_protocol(bench: Bench, way: Way) -> None:
    replies = [call("odd__echo", text="hi"), say("it said hi")]
    servers = [bench.odd()]
    assert way.ask(bench, replies, servers=servers, instruction="Be brief.") == ["it said hi"]
    assert "hi" in json.dumps(way.requests[1].body["messages"][-1])
    usage = bench.tracer.usage.to_dict()
    assert usage.pop("usd") > 0
    assert usage == {"requests": 2, "input_tokens": 20, "output_tokens": 10, "cached_tokens": 8}


def test_anthropic_gets_its_own_form(bench: Bench) -> None:
    way = Way("anthropic", stream=False)
    way.ask(
        bench,
        [call("odd__echo", text="hi"), say("done")],
        Task(question="?", seed=7, sampling={"top_p": 0.5}),
        servers=[bench.odd(tools=["echo"])],
        instruction="Be brief.",
        stop_sequences=["END"],
        parallel_tool_calls=False,
    )
    first, second = way.requests
    assert (first.path, first.authorization) == ("/v1/messages", KEY)
    body = {name: value for name, value in first.body.items() if name != "tools"}
    assert body == {
        "model": "claude-sonnet-4-5",
        "max_tokens": 32_000,
        "system": "Be brief.",
        "messages": [{"role": "user", "content": "?"}],
        "top_p": 0.5,
        "stop_sequences": ["END"],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    }
    (tool,) = first.body["tools"]
    assert (tool["name"], tool["input_schema"]["type"]) == ("odd__echo", "object")
    _, asked, answered = second.body["messages"]
    (sent,) = asked["content"]
    assert sent == {
        "type": "tool_use",
        "id": "call-1",
        "name": "odd__echo",
        "input": {"text": "hi"},
    }
    result = {"type": "tool_result", "tool_use_id": "call-1", "content": "hi"}
    assert answered == {"role": "user", "content": [result]}


def test_signed_thoughts_go_back_as_they_came(bench: Bench) -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "s-1"}
    use = {"type": "tool_use", "id": "c-1", "name": "odd__echo", "input": {"text": "hi"}}
    start = {"type": "content_block_start", "index": 0}
    empty = {**thought, "thinking": "", "signature": ""}
    events = [
        {**start, "content_block": empty},
        *(
            {"type": "content_block_delta", "index": 0, "delta": delta}
            for delta in ({"thinking": "Hm."}, {"signature": "s-1"})
        ),
        {**start, "index": 1, "content_block": use},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
    ]
    in_parts = Reply(events=events)
    at_once = send({"content": [thought, use], "stop_reason": "tool_use"})
    for first, stream in ((at_once, False), (in_parts, True)):
        way = Way("anthropic", stream=stream)
        assert way.ask(bench, [first, say("done")], servers=[bench.odd()]) == ["done"]
        assert way.requests[1].body["messages"][1]["content"] == [thought, use]


def test_what_a_provider_keeps_in_a_call_goes_back(bench: Bench) -> None:
    kept = {"google": {"thought_signature": "s-1"}}
    message = call("odd__echo", text="hi").message
    (called,) = message["tool_calls"]
    message = {**message, "tool_calls": [{**called, "extra_content": kept}], "reasoning": "Hm."}
    for stream in (False, True):
        way = Way("openai", stream=stream)
        way.ask(bench, [Reply(message), say("done")], servers=[bench.odd()])
        sent = way.requests[1].body["messages"][1]
        assert sent["tool_calls"][0]["extra_content"] == kept


def test_an_answer_with_a_lone_surrogate_is_an_answer(bench: Bench, way: Way) -> None:
    assert way.ask(bench, [say("so \ud800 it is")]) == ["so \ufffd it is"]


# Responses that are not answers.

SO_FAR = {"choices": [{"message": {"content": "4"}, "finish_reason": "stop"}]}
BESIDE: list[dict[str, Any]] = [
    {**SO_FAR, "code": 500, "message": "Fire!"},
    {**SO_FAR, "object": "error", "message": "Fire!"},
    {**SO_FAR, "status": "failed", "detail": "Fire!"},
    {**SO_FAR, "base_resp": {"status_code": 1002, "status_msg": "Fire!"}},
    {"choices": [{"message": {"content": "4", "error": "Fire!"}, "finish_reason": "stop"}]},
    {"detail": "Fire!"},
    {"success": False, "errors": [{"message": "Fire!"}]},
]


@pytest.mark.parametrize("content", BESIDE)
def test_an_error_beside_a_part_of_an_answer_is_a_failure(
    bench: Bench, content: dict[str, Any]
) -> None:
    (end,) = OPENAI.ask(bench, [send(content)])
    assert (end.infra, end.permanent) == (True, False)
    assert "Fire!" in str(end)


@pytest.mark.parametrize(
    "event",
    [
        b'event: error\ndata: {"message": "Fire!"}',
        b'data: {"detail": "Fire!"}',
        b'data: {"code": 500, "message": "Fire!"}',
        b'data: {"object": "error", "message": "Fire!"}',
    ],
)
def test_an_error_in_a_stream_is_a_failure_in_any_form(bench: Bench, event: bytes) -> None:
    delta = {"choices": [{"delta": {"content": "4"}, "finish_reason": "stop"}]}
    whole = f"data: {json.dumps(delta)}\n\n".encode()
    raw = Reply(raw=whole + event + b"\n\ndata: [DONE]\n\n", kind="text/event-stream")
    (end,) = Way("openai", stream=True).ask(bench, [raw])
    assert (end.infra, end.permanent) == (True, False)
    assert "Fire!" in str(end)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_takes_neither_key_nor_question_elsewhere(
    bench: Bench, whole: Way, status: int
) -> None:
    with LlmStub([say("42")]) as other:
        elsewhere = {"Location": f"{other.url}/x?key=1"}
        (end,) = whole.ask(bench, [Reply(status=status, headers=elsewhere)])
        assert other.requests == []
    assert end.permanent
    assert f"it redirects to {other.url}/x: name that URL" in str(end)


def test_a_body_without_end_is_a_failure(
    bench: Bench, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentpipe.core.caps.MAX_BODY_BYTES", 1_000)
    (end,) = way.ask(bench, [say("4" * 10_000)])
    assert end.infra
    assert "it sent more than 1,000 bytes in a response (MAX_BODY_BYTES)" in str(end)


def test_a_stream_of_too_many_events_is_a_failure(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentpipe.core.caps.MAX_BODY_LINES", 1_000)
    events = [{"choices": [{"delta": {"content": "4"}}]}] * 1_000
    (end,) = Way("openai", stream=True).ask(bench, [Reply(events=events)])
    assert end.infra
    assert "1,000 lines in a response (MAX_BODY_LINES)" in str(end)


def test_an_answer_of_many_calls_is_a_failure(bench: Bench, way: Way) -> None:
    function = {"name": "none", "arguments": "{}"}
    calls = [
        {"index": n, "id": f"call-{n}", "type": "function", "function": function}
        for n in range(caps.MAX_TOOL_CALLS + 1)
    ]
    (end,) = way.ask(bench, [Reply({"content": None, "tool_calls": calls})])
    assert end.infra
    assert "MAX_TOOL_CALLS" in str(end)


def test_arguments_of_any_size_are_refused_for_the_model(bench: Bench, way: Way) -> None:
    reply = call("none", text="x" * caps.MAX_ARGUMENTS_CHARS)
    assert way.ask(bench, [reply, say("a")]) == ["a"]
    assert "MAX_ARGUMENTS_CHARS" in way.requests[1].text


def test_a_conversation_of_any_size_ends_at_its_cap(
    bench: Bench, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentpipe.core.caps.MAX_REQUEST_BYTES", 5_000)
    (end,) = way.ask(bench, [call("none", text="x" * 3_000), call("none", text="x" * 3_000)])
    assert isinstance(end, RunLimitExceeded)
    assert "MAX_REQUEST_BYTES" in str(end)


def test_many_small_parts_are_joined_in_time_that_grows_with_them(bench: Bench) -> None:
    events: list[Any] = [{"choices": [{"delta": {"content": "w" * 20}}]}] * 60_000
    events.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    begun = time.process_time()
    assert Way("openai", stream=True).ask(bench, [Reply(events=events)]) == ["w" * 1_200_000]
    assert time.process_time() - begun < 60


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices": [{"message": {"tool_calls": [{"function": {"arguments": DEEP}}]}}]}',
        b'{"choices": [{"message": {"content": "4", "x": DEEP}, "finish_reason": "stop"}]}',
        b'{"error": DEEP}',
        b"DEEP",
    ],
)
@pytest.mark.parametrize("levels", [300, 990, 100_000])
def test_deep_answers_are_failures(bench: Bench, whole: Way, body: bytes, levels: int) -> None:
    deep = body.replace(b"DEEP", b'{"a":' * levels + b"1" + b"}" * levels)
    (end,) = whole.ask(bench, [send(deep)])
    assert end.infra
    assert "MAX_JSON_DEPTH" in str(end) or levels > 990


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty body"),
        (b"<html><h1>Bad gateway of ACME</h1>", "Bad gateway of ACME"),
        (b'{"choices": [{"message": {"content": "4', '{"content": "4'),
        (b"[1]", "expected an object"),
        (b"null", "expected an object"),
        ({"choices": []}, "a completion without choices"),
        ({"choices": None}, "a completion without choices"),
        ({}, "a completion without choices"),
        ({"choices": [None]}, "choices[0]"),
        ({"choices": [{"finish_reason": "stop"}]}, "message"),
        ({"choices": [{"message": {"content": 42}, "finish_reason": "stop"}]}, "content"),
        ({"choices": [{"message": {"tool_calls": [7]}}]}, "tool_calls"),
        ({"error": {"message": "The GPU is on fire.", "code": "E-1"}}, "The GPU is on fire."),
        ({"error": "The GPU is on fire.", "choices": []}, "The GPU is on fire."),
        (
            {"choices": [{"finish_reason": "error", "error": {"message": "Fire!"}}]},
            "Fire!",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_no_answer_is_a_failure_in_the_servers_words(
    bench: Bench, content: Any, words: str, *, stream: bool
) -> None:
    (end,) = Way("openai", stream=stream).ask(bench, [send(content)])
    assert (end.infra, end.permanent) == (True, False)
    assert words in str(end)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"type": "error", "error": {"type": "api_error", "message": "Fire!"}}, "Fire!"),
        ({"type": "message", "stop_reason": "end_turn"}, "a message without content"),
        ({"content": ["42"], "stop_reason": "end_turn"}, "content"),
        ({"content": [{"type": "text", "text": 42}], "stop_reason": "end_turn"}, "text"),
        (b"<html>", "<html>"),
    ],
)
def test_it_is_the_same_with_anthropic(bench: Bench, content: Any, words: str) -> None:
    (end,) = Way("anthropic", stream=False).ask(bench, [send(content)])
    assert (end.infra, end.permanent) == (True, False)
    assert words in str(end)


@pytest.mark.parametrize(
    ("protocol", "event"),
    [
        ("openai", {"error": {"message": "Fire!", "code": 502}}),
        ("openai", {"choices": [{"delta": {}, "finish_reason": "error", "error": "Fire!"}]}),
        ("anthropic", {"type": "error", "error": {"type": "api_error", "message": "Fire!"}}),
    ],
)
def test_an_error_within_a_stream_is_a_failure(
    bench: Bench, protocol: str, event: dict[str, Any]
) -> None:
    beginning = {"choices": [{"delta": {"content": "so"}}], "type": "ping"}
    way = Way(protocol, stream=True)
    (end,) = way.ask(bench, [Reply(events=[beginning, event, b"[DONE]"])])
    assert (end.infra, end.permanent) == (True, False)
    assert "Fire!" in str(end)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"nonsense", b"[]", b'{"choices": {}}', b'{"choices": [1]}']
)
def test_a_broken_event_is_a_failure(bench: Bench, data: bytes) -> None:
    answer = {"choices": [{"delta": {"content": "4"}, "finish_reason": "stop"}]}
    (end,) = Way("openai", stream=True).ask(bench, [Reply(events=[data, answer, b"[DONE]"])])
    assert (end.kind, end.infra) == ("UnreadableResponse", True)


def test_a_server_may_stream_unasked_or_answer_in_one_piece(bench: Bench) -> None:
    unasked = Reply(events=[{"choices": [{"delta": {"content": "4"}, "finish_reason": "stop"}]}])
    assert Way("openai", stream=False).ask(bench, [unasked]) == ["4"]
    at_once = send({"choices": [{"message": {"content": "42"}, "finish_reason": "stop"}]})
    assert Way("openai", stream=True).ask(bench, [at_once]) == ["42"]


def test_a_stream_may_hold_what_ends_a_line_elsewhere(bench: Bench) -> None:
    odd = "one\u2028two\u0085three\x0b"
    event = {"choices": [{"delta": {"content": odd}, "finish_reason": "stop"}]}
    data = json.dumps(event, ensure_ascii=False).encode()
    assert Way("openai", stream=True).ask(bench, [Reply(events=[data])]) == [odd]


def test_a_byte_order_mark_before_a_stream_costs_no_part_of_the_answer(bench: Bench) -> None:
    """Regression: the first event was dropped, and the rest was the answer."""
    said = [{"delta": {"content": "4"}}, {"delta": {"content": "2"}, "finish_reason": "stop"}]
    data = "".join(f"data: {json.dumps({'choices': [each]})}\n\n" for each in said)
    raw = Reply(raw=b"\xef\xbb\xbf" + data.encode(), kind="text/event-stream")
    assert Way("openai", stream=True).ask(bench, [raw]) == ["42"]


def test_the_servers_words_are_cut_and_hold_no_secret(bench: Bench, whole: Way) -> None:
    words = "x" * 990 + KEY + "y" * 100_000
    (end,) = whole.ask(bench, [send({"error": {"message": words}})])
    assert len(str(end)) < 1_200
    assert KEY[:4] not in str(end)
    assert "***" in str(end)


# Errors of the set-up.


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (401, {"code": "invalid_api_key", "message": "Incorrect API key."}, "Authentication"),
        (403, {"type": "permission_error", "message": "Not for you."}, "Authentication"),
        (400, {"message": "API key not valid.", "status": "INVALID_ARGUMENT"}, "Authentication"),
        (404, {"code": "model_not_found", "message": "The model `m` does not exist."}, "NotFound"),
        (404, {"type": "not_found_error", "message": "model: claude-9"}, "NotFound"),
        (400, {"message": "m is not a valid model ID"}, "NotFound"),
        (400, {"code": "model_not_found", "message": "No."}, "NotFound"),
        (429, {"code": "insufficient_quota", "message": "Check your plan."}, "QuotaExceeded"),
        (429, {"type": "insufficient_quota", "code": None, "message": "No."}, "QuotaExceeded"),
        (402, {"message": "Insufficient Balance"}, "QuotaExceeded"),
        (400, {"type": "billing_error", "message": "Pay."}, "QuotaExceeded"),
        (400, {"message": "Your credit balance is too low to access the API."}, "QuotaExceeded"),
        (200, {"code": "insufficient_quota", "message": "Pay."}, "QuotaExceeded"),
        (200, {"code": 401, "message": "User not found."}, "Authentication"),
    ],
)
def test_a_mistake_in_the_set_up_is_permanent(
    bench: Bench, whole: Way, status: int, error: dict[str, Any], kind: str
) -> None:
    later = 9 if status == 429 else None
    (end,) = whole.ask(bench, [fail(status, {"error": error}, retry_after=later)])
    assert is_permanent(end)
    assert is_infra(end)
    assert (end.kind, end.retry_after_s) == (f"Model{kind}Error", None)
    assert error["message"] in str(end)


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (429, {"message": "Slow down."}, "RateLimit"),
        (529, {"type": "overloaded_error", "message": "Slow down."}, "Overloaded"),
        (400, {"code": "rate_limit_exceeded", "message": "Slow down."}, "RateLimit"),
        (403, {"type": "rate_limit_error", "message": "Slow down."}, "RateLimit"),
        (500, {"status": "RESOURCE_EXHAUSTED", "message": "Slow down."}, "RateLimit"),
        (200, {"type": "rate_limit_error", "message": "Slow down."}, "RateLimit"),
        (200, {"type": "overloaded_error", "message": "Slow down."}, "Overloaded"),
        (200, {"code": 429, "message": "Slow down."}, "RateLimit"),
    ],
)
def test_a_rate_limit_is_one_whatever_its_status(
    bench: Bench, whole: Way, status: int, error: dict[str, Any], kind: str
) -> None:
    (end,) = whole.ask(bench, [fail(status, {"error": error})])
    assert (is_infra(end), is_permanent(end)) == (True, False)
    assert end.kind == f"Model{kind}Error"
    assert rate_limit(end) == RateLimit(None, of_credential=True)
    assert "Slow down." in str(end)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"error": {"message": "Unsupported parameter: 'seed'."}}),
        (422, {"detail": [{"msg": "Extra inputs are not permitted", "loc": ["body", "seed"]}]}),
        (400, {"object": "error", "message": "bad", "type": "BadRequestError", "code": 400}),
        (400, [{"error": {"code": 400, "message": "bad", "status": "INVALID_ARGUMENT"}}]),
        (400, {"error": "bad"}),
        (400, b"<html>bad"),
        (403, {"error": {"message": "bad", "metadata": {"flagged_input": "x", "reasons": ["y"]}}}),
    ],
)
def test_a_rejected_request_is_the_agents_and_in_the_servers_words(
    bench: Bench, whole: Way, status: int, body: Any
) -> None:
    (end,) = whole.ask(bench, [fail(status, body)])
    assert isinstance(end, AgentFailed)
    assert (end.kind, is_infra(end), is_permanent(end)) == (
        "ModelRequestRejectedError",
        False,
        False,
    )
    assert "bad" in str(end) or "not permitted" in str(end) or "Unsupported" in str(end)


def test_a_key_may_end_in_a_line_feed_and_hold_nothing_that_a_header_cannot(bench: Bench) -> None:
    with LlmStub([say("42")]) as stub:
        engine = bench.engine(stub.url)
        assert bench.ask(engine, "?", env={"OPENAI_API_KEY": f"{KEY}\n"}) == ["42"]
        (end,) = bench.ask(engine, "?", env={"OPENAI_API_KEY": "schl\u00fcssel"})
    assert stub.requests[0].authorization == f"Bearer {KEY}"
    assert is_permanent(end)
    assert "schl" not in str(end)


# JSON answers, if the task asks for them.


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ('[{"answer": 42}]', '[{"answer": 42}]'),
        ('"{\\"answer\\": 42}"', '"{\\"answer\\": 42}"'),
        (' {"answer": 42}\n', ' {"answer": 42}\n'),
        ("42", "42"),
        ('Here:\n```json\n{"answer": 42}\n```\nDone {really}.', '{"answer": 42}'),
        ('```\n[{"answer": 42}]\n```', '[{"answer": 42}]'),
        ('The answer is [{"answer": 42}].', '[{"answer": 42}]'),
        ('As in [1], {name} is {"answer": {"n": 42}}, not {"answer": 1}.', '{"answer": {"n": 42}}'),
        ('{"answer": {"n": 42}, "why', '{"answer": {"n": 42}, "why'),
        ('[{"answer": 42}, {"answer', '[{"answer": 42}, {"answer'),
        ("no json", "no json"),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_json_is_found_and_never_changed(bench: Bench, said: str, answer: str) -> None:
    task = Task(question="?", output_format={"answer": "a number"})
    assert OPENAI.ask(bench, [say(said)], task) == [answer]


# Traces.


def test_a_span_holds_what_is_new(bench: Bench) -> None:
    turns, text = 40, "x" * 20_000
    replies = [call("odd__environ", text="T")] * turns
    servers = [bench.odd(env={"T": text})]
    OPENAI.ask(bench, [*replies, say("done")], servers=servers, max_iterations=turns + 1)
    spans = json.dumps(bench.tracer.spans)
    assert turns * len(text) < len(spans) < MAX_TRACE_BYTES
    first, second, *_, last = bench.records("llm")
    assert [message["role"] for message in first["messages"]] == ["user"]
    (result,) = second["messages"]
    assert (result["role"], result["tool_call_id"]) == ("tool", "call-1")
    assert len(last["messages"]) == 1
    assert "dropped" not in spans


def test_a_span_holds_text_and_calls_and_what_came_with_them(bench: Bench, way: Way) -> None:
    both = call("odd__echo", text="hi")
    both.message["content"] = "Let me ask."
    way.ask(bench, [both, say("done")], servers=[bench.odd()])
    first, second = bench.records("llm")
    assert first["response"] == "Let me ask."
    (called,) = first["tool_calls"]
    assert (called["id"], called["name"]) == ("call-1", "odd__echo")
    assert json.loads(called["arguments"]) == {"text": "hi"}
    assert first["response_id"] == second["response_id"] == "stub-1"
    assert first["finish_reason"] in {"tool_calls", "tool_use"}
    assert first["usage"] == {
        "requests": 1,
        "input_tokens": 10,
        "output_tokens": 5,
        "cached_tokens": 4,
        "usd": first["usage"]["usd"],
    }
    assert (second["response"], second["tool_calls"]) == ("done", [])


def test_a_request_that_is_repeated_records_its_messages_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agentpipe.engines.llm import model

    monkeypatch.setattr(model, "PAUSE_S", 0.01)
    OPENAI.ask(bench, [call("odd__echo", text="hi"), fail(500), say("a")], servers=[bench.odd()])
    assert [len(record["messages"]) for record in bench.records("llm")] == [1, 1, 0]


# Runs in a worker.


@pytest.mark.long
def test_a_result_says_why_its_answer_ended(project: Project) -> None:
    def script(request: Request) -> Reply:
        if "window" in request.text:
            return fail(400, {"error": {"code": "context_length_exceeded", "message": "Full."}})
        if "quota" in request.text:
            return fail(429, {"error": {"code": "insufficient_quota", "message": "Pay."}})
        return say("4", finish="length" if "cut" in request.text else "stop")

    with LlmStub(script) as stub:
        config = {"model": "openai:gpt-4o-mini", "base_url": stub.url}
        spec = {"name": "llm", "type": "llm", "config": config}
        project.write("llm.yaml", yaml.safe_dump({"kind": "agent", "spec": spec}))
        for isolation in ("coroutine", "process"):
            project.collection(isolation, "./llm.yaml", isolation=isolation)
            questions = ("cut", "whole", "window", "quota")
            tasks = [{"question": each, "task_id": f"{each}-{isolation}"} for each in questions]
            project.send(*tasks, to=isolation)
        project.burst()
    for isolation in ("coroutine", "process"):
        results = [each for each in project.results() if each["collection"] == isolation]
        ends = {each["outcome"]: each for each in results}
        assert {each["stop"] for each in results if each["outcome"] == "ok"} == {"length", "stop"}
        assert ends["limit"]["stop"] is None
        assert "context window" in ends["limit"]["error"]["message"]
        assert ends["infra_error"]["error"]["permanent"] is True
