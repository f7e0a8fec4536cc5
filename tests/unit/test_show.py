"""The page of a Result, drawn from any content that a stream can hold."""

from __future__ import annotations

import math
from typing import Any

import pytest

from agentpipe.core.result import Result
from agentpipe.show.card import draw_messages, draw_result
from agentpipe.show.page import Page
from agentpipe.show.timeline import bar, nodes, total_s

HOSTILE = "MARK\x1b[2J\u202ereversed\x9b31m[red]m[/red]\rFORGED\r\nFORGED line\u2028\x00"


def _span(id_: str, parent: str, at: float, took: float = 1.0, **data: Any) -> dict[str, Any]:
    records = [{"timestamp": at, "data": data}] if data else []
    return {
        "id": id_,
        "parent_id": parent,
        "timestamp": at,
        "running_time": took,
        "records": records,
    }


def _request(id_: str, at: float, **data: Any) -> dict[str, Any]:
    config = {"model_name": "small"}
    return _span(id_, "run", at, type="llm", **{"class": "openai", "config": config, **data})


TRACE = [
    _request(
        "one",
        100.0,
        messages=[{"role": "user", "content": "What time is it?"}],
        response="",
        tool_calls=[{"id": "c", "name": "time__now", "arguments": '{"zone": "Lima"}'}],
        tools=[{"name": "time__now"}],
        usage={"input_tokens": 1_200, "output_tokens": 7},
        finish_reason="tool_calls",
    ),
    _span(
        "two",
        "run",
        101.0,
        type="tool",
        server="time",
        tool_name="now",
        arguments={"zone": "Lima"},
        response="it is 09:00",
    ),
    _request(
        "three",
        102.0,
        messages=[{"role": "tool", "tool_call_id": "c", "content": "it is 09:00"}],
        response="nine",
        tool_calls=[],
    ),
    _span("run", "run", 100.0, 4.0, type="agent", name="clerk_0", messages=["What time is it?"]),
]
RESULT = Result(
    result="nine",
    task_id="v2/lima/1",
    collection="clerk",
    agent="clerk_0",
    attempt=2,
    run="v2",
    group_id="lima",
    sample_index=1,
    group_size=4,
    reward=0.5,
    rewards={"exact": 0.0, "kind": 1.0},
    usage={"requests": 2, "usd": 0.0125},
    submitted_at="2026-01-01T00:00:00Z",
    started_at="2026-01-01T00:00:02Z",
    finished_at="2026-01-01T00:00:06Z",
    evaluation_results=[
        {
            "config": {"func": "raw", "op": "=", "value": "9"},
            "passed": False,
            "reason": "nine is not 9",
        },
        {"config": {"name": "kind", "func": "judge:kind"}, "passed": True, "score": 0.75},
        {"config": {"func": "x"}, "passed": False, "error": "KeyError: x"},
    ],
    trace=TRACE,
)


def _drawn(result: Result, width: int = 80, *, full: bool = False, messages: bool = False) -> str:
    page = Page(width, full=full)
    (draw_messages if messages else draw_result)(page, result)
    return "\n".join(line.plain for line in page.lines)


def test_the_page_has_all_that_is_known() -> None:
    drawn = _drawn(RESULT, 100)
    for part in (
        "v2/lima/1  ok  reward 0.5",
        "clerk / clerk_0",
        "v2 · group lima, sample 2 of 4",
        "attempt   2",
        "waited 2.0 s, took 4.0 s",
        "$0.0125, 2 requests",
        "exact",
        "What time is it?",
        "fail    = 9",
        "nine is not 9",
        "0.75    kind: judge:kind",
        "broken  x",
        "KeyError: x",
        "Trace: 4 spans, 4.0 s",
        "llm small",
        "1,200 in, 7 out, tool_calls, 1 tool known",
        'time__now({"zone": "Lima"})',
        "tool time.now",
        "it is 09:00",
        "assistant nine",
    ):
        assert part in drawn, (part, drawn)


def test_a_request_shows_only_its_new_messages() -> None:
    whole = [
        _request("one", 1.0, messages=[{"role": "user", "content": "AAA"}], response="BBB"),
        _request(
            "two",
            2.0,
            messages=[
                {"role": "user", "content": "AAA"},
                {"role": "assistant", "content": "BBB"},
                {"role": "user", "content": "CCC"},
            ],
            response="DDD",
        ),
    ]
    drawn = _drawn(Result(task_id="t", trace=whole))
    assert [drawn.count(each) for each in ("AAA", "BBB", "CCC", "DDD")] == [1, 1, 1, 1]


def test_messages_are_the_conversation() -> None:
    lines = _drawn(RESULT, messages=True).splitlines()
    assert [line[:9].rstrip() for line in lines] == ["user", "calls", "tool", "assistant"]
    assert "no conversation" in _drawn(Result(task_id="t"), messages=True)


def test_of_a_long_traceback_the_end_is_shown() -> None:
    lines = [f"frame {number}" for number in range(100)]
    error = {"type": "KeyError", "message": "x", "traceback": "\n".join(lines)}
    result = Result(task_id="t", outcome="agent_error", error=error)
    shown = _drawn(result)
    assert "frame 99" in shown
    assert "frame 87" not in shown
    assert "... (88 lines above)" in shown


def test_failures_are_shown_with_their_traceback() -> None:
    error = {"type": "KeyError", "message": "x", "traceback": "Traceback:\n  line"}
    drawn = _drawn(Result(task_id="t", outcome="agent_error", error=error))
    assert "t  agent_error" in drawn
    assert "KeyError: x" in drawn
    assert "Traceback:" in drawn


def test_what_was_cut_is_said() -> None:
    mark = {"fields": ["trace"], "spans": 40, "remedy": "raise max.message.bytes"}
    drawn = _drawn(Result(task_id="t", truncated=mark))
    assert "trace, the trace had 40 spans: raise max.message.bytes" in drawn
    dropped = _span("a", "a", 1.0, type="llm", dropped="too large: 5 bytes")
    assert "left out: too large: 5 bytes" in _drawn(Result(task_id="t", trace=[dropped]))


def test_lines_break_between_words() -> None:
    page = Page(24)
    page.block("one word after another, and averyveryverylongone too, 話話話 話話話話話話 話話")
    assert [line.plain for line in page.lines] == [
        "one word after another,",
        "and averyveryverylongone",
        "too, 話話話 話話話話話話",
        "話話",
    ]


@pytest.mark.parametrize("text", ["a" * 70, "a " * 70, "話" * 70, "\u0301" * 70, "a\u0301話 " * 70])
def test_a_block_of_any_script_fits_and_is_whole(text: str) -> None:
    page = Page(21, full=True)
    page.block(text)
    assert max(line.cell_len for line in page.lines) <= 21
    assert "".join(line.plain for line in page.lines).replace(" ", "") == text.replace(" ", "")


def test_small_costs_have_no_exponent() -> None:
    assert "$0.0000216, 2 requests" in _drawn(
        Result(task_id="t", usage={"requests": 2, "usd": 2.16e-05})
    )


def test_a_long_text_is_cut_unless_all_of_it_is_wanted() -> None:
    long = "x" * 10_000_000
    result = Result(task_id="t", result=long, trace=[_request("a", 1.0, response=long)])
    page = Page(80)
    draw_result(page, result)
    assert page.cut
    assert len(page.lines) < 100
    assert "(10,000,000 characters in all)" in _drawn(result)
    whole = _drawn(Result(task_id="t", result=long), full=True)
    assert whole.count("x") >= 10_000_000


@pytest.mark.parametrize("width", [1, 20, 80, 200])
def test_nothing_hostile_is_left_and_lines_fit(width: int) -> None:
    result = Result(
        task_id=HOSTILE,
        result={HOSTILE: HOSTILE},
        outcome=HOSTILE,
        collection=HOSTILE,
        worker=HOSTILE,
        metadata={HOSTILE: HOSTILE},
        usage={HOSTILE: HOSTILE, "usd": HOSTILE},
        error={"type": HOSTILE, "message": HOSTILE, "traceback": HOSTILE},
        evaluation_results=[{"config": HOSTILE, "reason": HOSTILE}, 7],  # type: ignore[list-item]
        rewards={HOSTILE: 1.0},
        truncated={"fields": [HOSTILE], "spans": HOSTILE, "reason": HOSTILE},
        trace=[
            _request(HOSTILE, 1.0, messages=[{"role": HOSTILE, "content": HOSTILE}]),
            _request(
                "p", 1.0, messages=[{"role": "user", "content": [{"text": HOSTILE}, HOSTILE]}]
            ),
            _span("t", "", 1.0, type=HOSTILE, tool_name=HOSTILE, response=HOSTILE, odd=HOSTILE),
            _span("u", "", 1.0, type="llm", dropped=HOSTILE, error=HOSTILE),
        ],
    )
    for messages in (False, True):
        drawn = _drawn(result, width, full=True, messages=messages)
        assert all(c.isprintable() or c == "\n" for c in drawn)
        assert not any(line.startswith("FORGED") for line in drawn.splitlines())
    page = Page(width)
    draw_result(page, result)
    assert max(line.cell_len for line in page.lines) <= max(width, 60)


ODD: list[Any] = [
    None,
    [],
    {},
    {"id": 5, "parent_id": [], "timestamp": "now", "running_time": math.inf, "records": {}},
    {"id": "a", "parent_id": "a", "timestamp": math.nan, "records": [1, {"data": None}]},
    {"records": [{"data": {"type": 5, "tool_name": 7, "server": [], "messages": 5}}]},
    {"records": [{"data": {"type": "llm", "config": 5, "usage": [], "tools": 1, "error": {}}}]},
    {"records": [{"data": {"type": "llm", "response": 5, "tool_calls": [1, {"function": "x"}]}}]},
    {"records": [{"data": {"type": "agent", "messages": [{"content": [1, {"type": "image"}]}]}}]},
]


@pytest.mark.parametrize("odd", ODD)
def test_odd_spans_are_drawn_as_far_as_they_go(odd: Any) -> None:
    drawn = _drawn(Result(task_id="t", trace=[odd, *TRACE]))
    assert "tool time.now" in drawn


def test_deep_answers_are_drawn() -> None:
    deep: Any = "end"
    for _ in range(240):
        deep = [deep]
    assert "characters in all" in _drawn(Result(task_id="t", result=deep))


def test_spans_are_in_order_below_their_parents_each_once() -> None:
    trace = [
        _span("late", "top", 3.0),
        _span("below", "early", 2.5),
        _span("early", "top", 2.0),
        _span("top", "top", 1.0),
        _span("ring", "other ring", 4.0),
        _span("other ring", "ring", 5.0),
    ]
    drawn = [(node.span["id"], node.depth) for node in nodes(trace)]
    assert drawn == [
        ("top", 0),
        ("early", 1),
        ("below", 2),
        ("late", 1),
        ("ring", 0),
        ("other ring", 1),
    ]


def test_a_chain_of_any_depth_has_an_end() -> None:
    chain = [_span(str(n), str(n - 1), float(n + 1)) for n in range(20_000)]
    tree = nodes(chain)
    assert len(tree) == 20_000
    assert max(node.depth for node in tree) == 12
    assert "more spans" in _drawn(Result(task_id="t", trace=chain))


def test_bars_show_when_a_span_ran() -> None:
    tree = nodes(TRACE)
    whole_s = total_s(tree)
    assert whole_s == 4.0
    bars = {node.span["id"]: bar(node.at_s, node.took_s, whole_s, 8) for node in tree}
    assert bars == {
        "run": "████████",
        "one": "██      ",
        "two": "  ██    ",
        "three": "    ██  ",
    }
    assert bar(0.0, 0.0, 0.0, 4) == "    "
    assert bar(10.0, 1.0, 10.0, 4) == "   █"


def test_the_question_is_the_tasks_or_that_of_the_runs_own_span() -> None:
    assert "What time is it?" in _drawn(Result(task_id="t", trace=TRACE[-1:]))
    assert "(not in this Result)" in _drawn(Result(task_id="t"))
