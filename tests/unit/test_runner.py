"""A Runner answers or raises within its limits, and the worker's loop survives."""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from agentpipe.core import json_values, trace
from agentpipe.core.json_values import checked_answer
from agentpipe.core.redaction import Redactor
from agentpipe.core.task import Task
from agentpipe.core.trace import Tracer
from agentpipe.engines import instance
from agentpipe.engines.base import Answer
from agentpipe.errors import AnswerError, InfraError, TimeLimitExceeded
from agentpipe.evaluation.evaluators import Evaluation
from agentpipe.evaluation.kept_answer import KeptAnswer
from agentpipe.worker.running.runner import Completed
from tests.support import wait_until
from tests.unit.agents import MadeEngine, runner_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.worker.running.runner import Runner

PATIENCE_S = 20.0


def answers(
    runner: Runner, *questions: str, tracer: Tracer | None = None, **fields: Any
) -> list[Completed | BaseException]:
    """The outcome of each question, run in sequence on one loop that must survive."""

    async def ask_all() -> list[Completed | BaseException]:
        ends: list[Completed | BaseException] = []
        for question in questions:
            try:
                task = Task(question=question, **fields)
                ends.append(await runner.run(task, tracer or Tracer()))
            except Exception as error:  # noqa: BLE001 - the tests inspect it
                ends.append(error)
        await runner.close()
        return ends

    return asyncio.run(ask_all())


def answer(runner: Runner, question: str = "Why?", **fields: Any) -> Any:
    (end,) = answers(runner, question, **fields)
    if isinstance(end, BaseException):
        raise end
    return end.answer


class Coroutine_:  # noqa: N801 - one of a pair
    """Calls a function from a coroutine."""

    def __init__(self, does: Callable[..., Any]) -> None:
        self.does = does

    async def execute(self, task: Task, context: Any) -> Any:
        value = self.does(task, context)
        return await value if asyncio.iscoroutine(value) else value


class Plain:
    """Calls a function from a plain method."""

    def __init__(self, does: Callable[..., Any]) -> None:
        self.does = does

    def execute(self, task: Task, context: Any) -> Any:
        return self.does(task, context)


KINDS = [
    pytest.param(Coroutine_, {}, id="coroutine"),
    pytest.param(Coroutine_, {"isolation": "thread"}, id="coroutine in a thread"),
    pytest.param(Plain, {"blocks": True}, id="plain"),
]
every_kind = pytest.mark.parametrize(("kind", "options"), KINDS)


@every_kind
def test_an_agent_answers_knowing_task_and_context(kind: Any, options: dict[str, Any]) -> None:
    runner = runner_of(
        lambda: kind(lambda task, context: f"{task.question} {context.env['NAME']}"),
        env={"NAME": "Zoë"},
        **options,
    )
    assert answer(runner, "Who?") == "Who? Zoë"


@every_kind
def test_evaluators_know_the_context(kind: Any, options: dict[str, Any]) -> None:
    evaluators = [{"func": "raw", "op": "=", "value": "{{ NAME }}"}]
    runner = runner_of(lambda: kind(lambda *_: "Zoë"), env={"NAME": "Zoë"}, **options)
    (run_,) = answers(runner, "Who?", evaluators=evaluators)
    assert isinstance(run_, Completed)
    assert [evaluation.passed for evaluation in run_.evaluations] == [True]
    assert run_.evaluations[0].config["value"] == "{{ NAME }}"


@every_kind
def test_what_an_agent_raises_comes_out(kind: Any, options: dict[str, Any]) -> None:
    def fail(*_: Any) -> None:
        raise LookupError("no such thing")

    with pytest.raises(LookupError, match="no such thing"):
        answer(runner_of(lambda: kind(fail), **options))


@every_kind
@pytest.mark.parametrize("exits", [SystemExit, KeyboardInterrupt])
def test_an_agent_that_exits_does_not_end_the_worker(
    kind: Any, options: dict[str, Any], exits: type[BaseException]
) -> None:
    def leave(task: Task, _: Any) -> str:
        if task.question == "leave":
            raise exits
        return "stayed"

    left, stayed = answers(runner_of(lambda: kind(leave), **options), "leave", "stay")
    assert isinstance(left, AnswerError)
    assert exits.__name__ in str(left)
    assert isinstance(stayed, Completed)


@every_kind
@pytest.mark.parametrize("where", ["__init__", "open", "close"])
def test_an_agent_that_exits_around_its_runs_does_not_end_the_worker(
    kind: Any, options: dict[str, Any], where: str
) -> None:
    class Leaver(kind):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(lambda *_: "stayed")
            if where == "__init__":
                sys.exit(3)

        async def open(self) -> None:
            if where == "open":
                sys.exit(3)

        def close(self) -> None:
            if where == "close":
                sys.exit(3)

    (end,) = answers(runner_of(Leaver, **options), "Why?")
    assert isinstance(end, Completed if where == "close" else AnswerError)


def test_a_coroutine_is_cancelled_at_its_time_limit() -> None:
    cancelled = []

    async def wait(*_: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.append(True)

    with pytest.raises(TimeLimitExceeded, match=r"its time limit of 0.05 s"):
        answer(runner_of(lambda: Coroutine_(wait), time_limit_s=0.05))
    assert cancelled == [True]


def test_a_plain_function_is_interrupted_at_its_time_limit() -> None:
    begun, ended = threading.Event(), threading.Event()

    def compute(*_: Any) -> None:
        try:
            begun.set()
            while True:
                time.sleep(0.001)
        finally:
            ended.set()

    def began() -> bool:  # On a busy machine, the limit can end a run before it starts.
        with pytest.raises(TimeLimitExceeded):
            answer(runner_of(lambda: Plain(compute), blocks=True, time_limit_s=0.05))
        return begun.is_set()

    wait_until(began, PATIENCE_S, "a run begins within its limit")
    assert ended.wait(PATIENCE_S)


def test_a_coroutine_in_a_thread_is_cancelled_at_its_time_limit() -> None:
    begun, ended = threading.Event(), threading.Event()

    async def wait(*_: Any) -> None:
        try:
            begun.set()
            await asyncio.sleep(60)
        finally:
            ended.set()

    def began() -> bool:  # On a busy machine, the limit can end a run before it starts.
        runner = runner_of(lambda: Coroutine_(wait), isolation="thread", time_limit_s=0.05)
        with pytest.raises(TimeLimitExceeded):
            answer(runner)
        return begun.is_set()

    wait_until(began, PATIENCE_S, "a run begins within its limit")
    assert ended.wait(PATIENCE_S)


def test_an_agent_that_swallows_its_cancellation_is_left_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(instance, "CANCEL_GRACE_S", 0.05)
    release = threading.Event()

    async def stubborn(*_: Any) -> str:
        while not release.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue
        return "late"

    async def ask() -> float:
        begun = time.monotonic()
        with pytest.raises(TimeLimitExceeded):
            await runner.run(Task(question="Why?"), Tracer())
        took_s = time.monotonic() - begun
        release.set()
        return took_s

    runner = runner_of(lambda: Coroutine_(stubborn), time_limit_s=0.05)
    assert asyncio.run(ask()) < 10


def test_a_function_that_swallows_its_interruption_is_left_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(instance, "CANCEL_GRACE_S", 0.05)
    release = threading.Event()

    def stubborn(*_: Any) -> None:
        while not release.is_set():
            try:
                time.sleep(0.01)
            except BaseException:  # noqa: BLE001 - the worst case
                continue

    begun = time.monotonic()
    with pytest.raises(TimeLimitExceeded):
        answer(runner_of(lambda: Plain(stubborn), blocks=True, time_limit_s=0.05))
    assert time.monotonic() - begun < 10
    release.set()


@every_kind
def test_a_run_that_is_cancelled_ends_its_agent(kind: Any, options: dict[str, Any]) -> None:
    begun, ended = threading.Event(), threading.Event()

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    def block() -> None:
        begun.set()
        try:
            while True:
                time.sleep(0.001)
        finally:
            ended.set()

    async def cancel() -> None:
        running = asyncio.ensure_future(runner.run(Task(), Tracer()))
        await asyncio.to_thread(begun.wait, PATIENCE_S)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    runner = runner_of(lambda: kind(lambda *_: block() if kind is Plain else wait()), **options)
    asyncio.run(cancel())
    assert ended.wait(PATIENCE_S)


def test_threads_of_agents_do_not_hold_up_the_loop() -> None:
    both = threading.Barrier(2, timeout=PATIENCE_S)

    def meet(*_: Any) -> str:
        both.wait()
        return "met"

    async def ask() -> list[Completed]:
        ends = await asyncio.gather(*(runner.run(Task(), Tracer()) for _ in range(2)))
        await runner.close()
        return list(ends)

    runner = runner_of(lambda: Plain(meet), blocks=True)
    assert [each.answer for each in asyncio.run(ask())] == ["met", "met"]


@every_kind
def test_where_an_agent_runs(kind: Any, options: dict[str, Any]) -> None:
    here = threading.get_ident()
    threads = answers(
        runner_of(lambda: kind(lambda *_: threading.get_ident()), **options), "a", "b"
    )
    found = {end.answer for end in threads if isinstance(end, Completed)}
    assert len(found) == 1
    assert (here in found) == (not options)


class Recorder:
    """Records what happens to its instances."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.log.append("made")

    def open(self) -> None:
        self.log.append("opened")

    async def execute(self, task: Task, context: Any) -> str:
        del context
        self.log.append(task.question)
        if task.question == "fail":
            raise LookupError
        return "done" if task.question != "bad" else float("nan")  # type: ignore[return-value]

    async def close(self) -> None:
        self.log.append("closed")


def test_an_instance_is_opened_once_used_again_and_closed() -> None:
    log: list[str] = []
    answers(runner_of(lambda: Recorder(log)), "a", "b")
    assert log == ["made", "opened", "a", "b", "closed"]


@pytest.mark.parametrize("failure", ["fail", "bad"])
def test_an_instance_is_discarded_after_a_failure(failure: str) -> None:
    log: list[str] = []
    answers(runner_of(lambda: Recorder(log)), "a", failure, "b")
    assert log == ["made", "opened", "a", failure, "closed", "made", "opened", "b", "closed"]


def test_runs_at_once_have_an_instance_each() -> None:
    made: list[object] = []
    gate = asyncio.Event()

    class Waiter:
        def __init__(self) -> None:
            made.append(self)

        async def execute(self, task: Task, context: Any) -> str:
            del task, context
            await gate.wait()
            return "done"

    async def ask() -> None:
        running = [asyncio.ensure_future(runner.run(Task(), Tracer())) for _ in range(3)]
        asyncio.get_running_loop().call_later(0.01, gate.set)
        await asyncio.gather(*running)
        await runner.run(Task(), Tracer())

    runner = runner_of(Waiter)
    asyncio.run(ask())
    assert len(made) == 3


def test_what_fails_while_opening_is_tried_anew_by_the_next_task() -> None:
    attempts: list[int] = []

    class Picky(Coroutine_):
        def __init__(self) -> None:
            attempts.append(1)
            if len(attempts) == 1:
                raise ConnectionError("not yet")
            super().__init__(lambda *_: "fine")

    first, second = answers(runner_of(Picky), "a", "b")
    assert isinstance(first, ConnectionError)
    assert isinstance(second, Completed)


def test_a_close_that_fails_or_hangs_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance, "CANCEL_GRACE_S", 0.05)

    class Failing(Coroutine_):
        async def close(self) -> None:
            raise RuntimeError

    class Hanging(Coroutine_):
        async def close(self) -> None:
            await asyncio.sleep(60)

    assert answer(runner_of(lambda: Failing(lambda *_: "fine"))) == "fine"
    assert answer(runner_of(lambda: Hanging(lambda *_: "fine"))) == "fine"


def test_an_idle_thread_ends_with_its_runner() -> None:
    before = threading.active_count()
    assert answer(runner_of(lambda: Plain(lambda *_: "x"), blocks=True)) == "x"
    wait_until(lambda: threading.active_count() <= before, PATIENCE_S, "the thread ends")


@every_kind
def test_an_agents_spans_are_in_its_trace(kind: Any, options: dict[str, Any]) -> None:
    def search(*_: Any) -> str:
        with trace.span({"type": "tool", "tool_name": "search"}):
            return "found"

    tracer = Tracer()
    answers(runner_of(lambda: kind(search), **options), "Where?", tracer=tracer)
    tool, top = tracer.spans
    assert tool["parent_id"] == top["id"]
    assert top["records"][0]["data"]["messages"] == ["Where?"]


def test_the_answer_is_evaluated() -> None:
    evaluators = [
        {"func": "json -> get(x)", "op": "=", "value": 4},
        {"func": "json -> get(x)", "op": "=", "value": 5},
    ]
    (end,) = answers(
        runner_of(lambda: Coroutine_(lambda *_: {"x": 4})), "2+2", evaluators=evaluators
    )
    assert isinstance(end, Completed)
    assert [evaluation.passed for evaluation in end.evaluations] == [True, False]


def test_an_answer_that_is_kept_is_only_judged() -> None:
    agents: list[Any] = []

    def made() -> Any:
        agents.append(None)
        return Coroutine_(lambda *_: "another")

    env = {"NAME": "alice"}
    kept = KeptAnswer({"x": "alice"}, 3, 2, {"requests": 2}, [{"id": "span"}], "length")
    sealed = kept.sealed(env, Redactor(env.values()))
    assert "alice" not in str(sealed)
    evaluators = [{"func": "json -> get(x)", "op": "=", "value": "{{ NAME }}"}]
    tracer = Tracer()
    runner = runner_of(made, env=env)
    (end,) = answers(runner, "Who?", tracer=tracer, evaluators=evaluators, answered=sealed)
    assert isinstance(end, Completed)
    assert (end.answer, end.stop, end.kept) == ({"x": "alice"}, "length", kept)
    assert [evaluation.passed for evaluation in end.evaluations] == [True]
    assert (tracer.spans, tracer.usage.to_dict()) == ([{"id": "span"}], {"requests": 2})
    assert agents == []


class JudgingAgent:
    """Like MCP-Universe's agents, it evaluates in its own process."""

    def __init__(self, asked: list[Any]) -> None:
        self._asked = asked

    async def execute(self, task: Any, _context: Any) -> Answer:
        self._asked.append(task.answered)
        cause = InfraError("away") if task.answered is None else None
        verdict = Evaluation({}, "a", passed=cause is None, broken=cause is not None, cause=cause)
        return Answer("an alias", evaluations=(verdict,))


def test_an_answer_that_its_agent_evaluates_is_judged_there_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MadeEngine, "judges_answers", True, raising=False)
    asked: list[Any] = []
    runner = runner_of(lambda: JudgingAgent(asked), env={"NAME": "alias"})
    (first,) = answers(runner, "Who?")
    assert isinstance(first, Completed)
    assert (first.keepable, first.by_agent) == (True, True)
    kept = KeptAnswer(first.answer, 1, 0, by_agent=first.by_agent)
    sealed = kept.sealed(first.env, Redactor(first.env.values()))
    (again,) = answers(runner, "Who?", answered=sealed)
    assert isinstance(again, Completed)
    assert (again.answer, again.evaluations[0].passed) == ("an alias", True)
    assert asked == [None, {"answer": "an alias"}]
    (prepared,) = answers(runner, "Who?", prepares=[{"prepare_func": "x"}])
    assert isinstance(prepared, Completed)
    assert not prepared.keepable


# Valid answers.


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("", ""),
        (None, "null"),
        ({"x": [1, 2.5, None, True]}, '{"x":[1,2.5,null,true]}'),
        ((1, 2), "[1,2]"),
        (False, "false"),
    ],
)
def test_an_answer_is_text_or_json(value: Any, text: str) -> None:
    assert checked_answer(value) == (value, text)


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        ("a\ud800b", "a\ufffdb"),
        ("\ud83d\ude00", "\U0001f600"),
        ({"\udfff": ["é", "\ud800"]}, {"\ufffd": ["é", "\ufffd"]}),
    ],
)
def test_a_lone_surrogate_is_replaced_and_the_answer_kept(value: Any, valid: Any) -> None:
    answer, text = checked_answer(value)
    assert answer == valid
    assert text == (valid if isinstance(valid, str) else orjson.dumps(valid).decode())


class EndlessDict(dict[str, Any]):
    def items(self) -> Any:
        return ((str(number), number) for number in itertools.count())


class EndlessList(list[Any]):
    def __iter__(self) -> Any:
        return itertools.count()


@pytest.mark.parametrize("content", [{"a": [1]}, [{"a": 1}], {"\ud800": "b"}, ["\ud800"]])
def test_an_answer_is_what_it_holds_whatever_its_methods_say(content: Any) -> None:
    """Regression: the check of an answer that yields without end blocked the worker's loop."""
    wrapped = EndlessDict(content) if isinstance(content, dict) else EndlessList(content)
    assert checked_answer(wrapped)[1] == checked_answer(content)[1]


def cyclic() -> list[Any]:
    cycle: list[Any] = []
    cycle.append(cycle)
    return cycle


class HostileRepr:
    def __repr__(self) -> str:
        raise RuntimeError

    __str__ = __repr__


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (float("nan"), "the answer: nan is not JSON"),
        ({"a": [float("inf")]}, r"the answer\.a\[0\]: inf is not JSON"),
        (b"bytes", "the answer: is of type bytes"),
        ({1, 2}, "the answer: is of type set"),
        ({"a": {1: 2}}, r"the answer\.a: keys must be strings, got int"),
        (object(), "the answer: is of type object"),
        (HostileRepr(), "the answer: is of type HostileRepr"),
        ({"a": HostileRepr()}, r"the answer\.a: is of type HostileRepr"),
        (cyclic(), "nested deeper than 200 levels, or in a cycle"),
        (2**70, "the answer: an integer beyond 64 bits"),
        ({"a": [-(2**63) - 1]}, r"the answer\.a\[0\]: an integer beyond 64 bits"),
        (Exception, "the answer: is of type type"),
    ],
)
def test_what_is_neither_is_refused_with_its_place(value: Any, complaint: str) -> None:
    with pytest.raises(AnswerError, match=complaint):
        checked_answer(value)


def test_a_huge_answer_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_values, "MAX_ANSWER_BYTES", 1000)
    with pytest.raises(AnswerError, match="store it and return its address"):
        checked_answer("x" * 1001)
