"""Spans are in the MCP-Universe format, and redaction leaves no form of a secret."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any

import orjson
import pytest

from agentpipe.core import trace
from agentpipe.core.redaction import Redactor
from agentpipe.core.secret_forms import MASK
from agentpipe.core.trace import Tracer

SPAN_KEYS = ["id", "trace_id", "parent_id", "records", "running_time", "timestamp", "span_index"]
CANARY = "canary-5f3a"


def data_of(span: dict[str, Any]) -> list[dict[str, Any]]:
    return [record["data"] for record in span["records"]]


def test_a_span_has_the_peers_keys() -> None:
    tracer = Tracer()
    with tracer.root() as root:
        root.add({"type": "agent"})
    (span,) = tracer.spans
    assert sorted(span) == sorted(SPAN_KEYS)
    assert [sorted(record) for record in span["records"]] == [["data", "timestamp"]]
    orjson.dumps(span)


def test_the_root_is_its_own_parent_and_children_come_first() -> None:
    tracer = Tracer()
    with tracer.root() as root:
        with trace.span({"type": "tool"}) as outer:
            with trace.span({"type": "inner"}):
                pass
            outer.add({"response": 1})
        with trace.span({"type": "llm"}):
            pass
    inner, tool, llm, top = tracer.spans
    assert [span["span_index"] for span in tracer.spans] == [0, 1, 2, 3]
    assert {span["trace_id"] for span in tracer.spans} == {tracer.trace_id}
    assert top["id"] == top["parent_id"] == root.id
    assert tool["parent_id"] == llm["parent_id"] == top["id"]
    assert inner["parent_id"] == tool["id"]
    assert data_of(tool) == [{"type": "tool"}, {"response": 1}]


def test_a_span_tells_when_and_how_long() -> None:
    tracer, before = Tracer(), time.time()
    with tracer.root():
        time.sleep(0.01)
    (span,) = tracer.spans
    assert before <= span["timestamp"] <= time.time()
    assert 0.009 <= span["running_time"] < 60


def test_a_span_that_ends_with_an_error_is_kept() -> None:
    tracer = Tracer()
    with pytest.raises(RuntimeError), tracer.root(), trace.span({"type": "tool"}):
        raise RuntimeError
    assert len(tracer.spans) == 2


def test_a_span_outside_any_run_is_recorded_nowhere() -> None:
    with trace.span({"type": "tool"}) as span:
        span.add({"x": 1})
    tracer = Tracer()
    with tracer.root():
        pass
    with trace.span({"type": "late"}):
        pass
    assert len(tracer.spans) == 1


def test_runs_at_the_same_time_do_not_mix_their_spans() -> None:
    async def run(name: str) -> Tracer:
        tracer = Tracer()
        with tracer.root():
            await asyncio.sleep(0)
            with trace.span({"name": name}):
                await asyncio.sleep(0)
        return tracer

    async def both() -> list[Tracer]:
        return list(await asyncio.gather(run("a"), run("b")))

    for name, tracer in zip("ab", asyncio.run(both()), strict=True):
        child, root = tracer.spans
        assert data_of(child) == [{"name": name}]
        assert child["parent_id"] == root["id"]


def test_another_thread_is_outside_the_run() -> None:
    tracer = Tracer()

    def work() -> None:
        with trace.span({"type": "tool"}):
            pass

    with tracer.root():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert len(tracer.spans) == 1


# Redaction.


def masked(secret: str, value: Any) -> Any:
    redactor = Redactor([secret])
    encoded = orjson.dumps(value)
    found = redactor.value(orjson.loads(encoded))
    assert redactor.occurs_in(encoded) == (found != orjson.loads(encoded))
    return found


def test_a_secret_is_masked_wherever_it_stands_in_a_text() -> None:
    assert masked(CANARY, f"a {CANARY} b{CANARY}") == f"a {MASK} b{MASK}"


def test_secrets_are_masked_in_nested_values_and_keys() -> None:
    value = {"a": [{"b": CANARY}, 1, None, True], CANARY: {f"x{CANARY}": 0.5}}
    assert masked(CANARY, value) == {
        "a": [{"b": MASK}, 1, None, True],
        MASK: {f"x{MASK}": 0.5},
    }


@pytest.mark.parametrize(
    "secret",
    ['quo"te-5f3a', "back\\slash-5f3a", "two\nlines-5f3a", "tab\t-5f3a", "ünïcode-5f3a", "☃-5f3a"],
)
def test_a_secret_is_masked_in_json_texts_too(secret: str) -> None:
    for text in (
        json.dumps({"token": secret}),
        json.dumps({"token": secret}, ensure_ascii=False),
        orjson.dumps({"token": secret}).decode(),
    ):
        assert masked(secret, text) == '{"token": "***"}'.replace(
            " ", "" if ": " not in text else " "
        )
        assert masked(secret, {"content": text}) != {"content": text}


def test_the_longest_secret_is_masked_first() -> None:
    redactor = Redactor(["canary", "canary-long"])
    assert redactor.text("canary-long canary") == f"{MASK} {MASK}"


@pytest.mark.parametrize("setting", ["", "1", "yes", "true", "False", "none", "null", "TRUE"])
def test_short_values_and_plain_words_are_no_secrets(setting: str) -> None:
    text = f"it is {setting} that nothing changed"
    assert Redactor([setting]).text(text) == text


def test_a_redactor_leaves_everything_else_as_it_is() -> None:
    value = {"a": [1, 2.5, None, True, "text"], "b": {}}
    assert masked(CANARY, value) == value
