"""What a trainer reports of its loop, as others see it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from agentpipe.core.loop_holds import LoopState
from agentpipe.operations.explain.of_loop import with_loop
from agentpipe.operations.explain.reason import Explanation
from agentpipe.operations.loops import LoopSeen, loop_lines, loop_of
from agentpipe.training import loop_report
from agentpipe.training.loop_report import LoopFacts, LoopProgress, LoopReport

if TYPE_CHECKING:
    from collections.abc import Callable

FACTS = LoopFacts("first", "first/", "agents", "main", 4)


def seen(report: bytes, silent_s: float = 1.0, name: str = "first") -> LoopSeen:
    return LoopSeen.of(LoopState(name, "token", silent_s, report))


@pytest.fixture
def pass_s(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A function that advances the report's clock."""
    now = [100.0]

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return now[0]

        @staticmethod
        def time() -> float:
            return now[0]

    def add(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(loop_report, "time", Clock)
    return add


def test_a_report_says_who_it_is_and_how_far(pass_s: Callable[[float], None]) -> None:
    report = LoopReport(FACTS)
    report.note(LoopProgress(waits=True))
    pass_s(10)
    counts = {"complete": 5, "flat": 2}
    report.note(LoopProgress(3, 12, 4, 5, 3, counts, waits=True))
    found = seen(report.encode())
    assert (found.name, found.run, found.collection, found.policy) == (
        "first",
        "first",
        "agents",
        "main",
    )
    assert (found.pid, found.since) == (os.getpid(), "1970-01-01T00:01:40.000000Z")
    assert (found.step, found.sent, found.out, found.used, found.wasted) == (3, 12, 4, 5, 3)
    assert (found.batch, found.counts) == (4, counts)
    assert (found.state, found.state_s) == ("waits", 11.0)
    assert found.per_s == 0.5
    report.note(LoopProgress(3, 12, 4, 5, 3, counts))
    pass_s(2)
    found = seen(report.encode(), 0.5)
    assert (found.state, found.state_s) == ("trains", 2.5)


def test_a_rate_falls_while_nothing_is_given(pass_s: Callable[[float], None]) -> None:
    report = LoopReport(FACTS)
    pass_s(10)
    report.note(LoopProgress(used=1_000))
    pass_s(90)
    assert seen(report.encode()).per_s == pytest.approx(255 / 90)
    pass_s(900)
    assert seen(report.encode()).per_s == pytest.approx(255 / 990, rel=1e-3)


def test_one_that_is_silent_for_longer_than_its_lease_is_gone() -> None:
    found = seen(LoopReport(FACTS).encode(), 300.0)
    assert (found.state, found.state_s) == ("gone", 300.0)
    said = "\n".join(loop_lines(found))
    assert "trainer gone 5 min" in said
    assert "start it again with the last state that it saved" in said
    assert "heard 5 min ago" in said


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"[]",
        b"{",
        orjson.dumps({"pid": "x", "step": -1, "counts": {"a": "b"}, "per_s": None, "run": 7}),
        orjson.dumps({"used": True, "waits": 1, "state_s": -3, "prefix": "", "host": "a\x1b\nb"}),
    ],
)
def test_what_others_have_written_there_harms_nobody(said: bytes) -> None:
    found = seen(said, name="odd\n\x1b[31m")
    assert found.state == "alive"
    assert (found.step, found.used, found.pid, found.run, found.per_s) == (None,) * 5
    assert found.counts == {}
    assert "".join(loop_lines(found)).isprintable()
    assert orjson.loads(orjson.dumps(found.to_dict()))["name"].isprintable()


def test_a_task_is_of_the_loop_with_the_longest_prefix() -> None:
    facts = (FACTS, LoopFacts("first", "first/1-of-2/", "agents"), LoopFacts("x", "", "agents"))
    loops = [seen(LoopReport(each).encode(), name=each.prefix or "x") for each in facts]
    for task_id, name in (
        ("first/000001/3", "first/"),
        ("first/1-of-2/000001/3", "first/1-of-2/"),
        ("firstly/0", None),
    ):
        found = loop_of(task_id, loops)
        assert (found and found.name) == name


def explanation(**details: Any) -> Explanation:
    return Explanation(
        "first/0/0", "waiting", "next", "it waits", "a worker takes it", None, details
    )


def test_a_task_says_which_loop_waits_for_it_or_that_it_is_gone() -> None:
    report = LoopReport(FACTS)
    report.note(LoopProgress(step=2, waits=True))
    found = with_loop(explanation(agent="a"), seen(report.encode()), "")
    assert found.sentence.startswith("it waits; its loop first waits for groups 1.0 s, at step 2: ")
    assert f"process {os.getpid()} on " in found.sentence
    assert found.next == "a worker takes it"
    assert found.to_dict()["loop"]["step"] == 2
    gone = with_loop(explanation(), seen(report.encode(), 60.0), "")
    assert "the trainer of its loop first is gone: process" in gone.sentence
    assert "heard 60 s ago" in gone.sentence
    assert gone.next.startswith("a worker takes it; start the trainer again")
    none = with_loop(explanation(), None, "first")
    assert none.sentence == "it waits; no trainer has the loop of run first now"
    assert none.to_dict()["loop"] is None
    other = with_loop(explanation(agent="a"), None, "")
    assert (other.sentence, other.next) == ("it waits", "a worker takes it")
    assert other.to_dict()["agent"] == "a"
