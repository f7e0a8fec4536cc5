"""What commands and pages say of rewards, costs and rates is true of graded and small numbers."""

from __future__ import annotations

from contextlib import closing
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.runs import KeptRun
from agentpipe.brokers.statistics import Tally
from agentpipe.cli.program import run
from agentpipe.core.redaction import Redactor
from agentpipe.core.result import Result
from agentpipe.core.text import dollars
from agentpipe.errors import Unreachable
from agentpipe.monitoring import numbers
from agentpipe.monitoring.history import FleetHistory, Snapshot
from agentpipe.operations.judging.report import summarize
from agentpipe.operations.runs import by_store
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from agentpipe.sinks.base import Record
from agentpipe.tui.frame import draw
from agentpipe.tui.state import ScreenState
from agentpipe.web.pages import Pages
from agentpipe.web.run_list import Entry, entries
from tests.stores import open_any
from tests.unit.fleets import SCENE, agent, fleet

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def result(run: str, number: int, **fields: Any) -> Result:
    known: dict[str, Any] = {
        "task": {"question": f"question {number}"},
        "outcome": "ok",
        "reward": 1.0,
        "started_at": "2026-01-01T00:00:00.000000Z",
        "finished_at": "2026-01-01T01:00:00.000000Z",
    }
    return Result(task_id=f"{run}/t{number}", run=run, **{**known, **fields})


def archive(folder: Path, results: Sequence[Result]) -> tuple[str, str]:
    """The options that name an archive of these results."""
    url = f"sqlite:///{folder}/results.db"
    sink = open_sink(Settings.from_env({"AGENTPIPE_SINK": url}))
    sink.publish([Record(each.task_id, each.encode(Redactor([]))) for each in results])
    sink.close()
    return "--sink", url


@pytest.mark.parametrize(
    ("number", "shown"),
    [(3, "3.0 results/h"), (120, "2.0 results/min"), (7_200, "2.0 results/s")],
)
def test_a_slow_run_has_a_throughput(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int, shown: str
) -> None:
    sink = archive(tmp_path, [result("v1", task) for task in range(number)])
    assert run(["report", "--run", "v1", *sink]) == 0
    assert shown in capsys.readouterr().out


def test_a_comparison_says_that_it_has_compared_other_questions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = [result("v1", task) for task in range(3)]
    second = [result("v2", task, task={"question": "another"}) for task in range(2)]
    sink = archive(tmp_path, [*first, *second, result("v2", 2)])
    assert run(["compare", "v1", "v2", *sink]) == 0
    said = capsys.readouterr()
    assert "3 in both, 3 of them judged in both" in said.out
    assert (
        "2 tasks of v2 ask another question than in v1, and are compared all the same" in said.err
    )


@pytest.mark.parametrize(
    ("usd", "report"), [(2.16e-05, "0.0000216"), (1_234.5, "1,234.50"), (123_456.7, "123,456.70")]
)
def test_costs_have_no_exponent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], usd: float, report: str
) -> None:
    usage = {"usage": {"usd": usd}, "usage_total": {"usd": usd}}
    sink = archive(tmp_path, [result(run, 0, agent="a_0", **usage) for run in ("v1", "v2")])
    assert run(["report", "--run", "v1", "--by", "agent", *sink]) == 0
    assert f" {report} " in capsys.readouterr().out
    assert run(["compare", "v1", "v2", *sink]) == 0
    assert f"1 result, {report} usd," in capsys.readouterr().out
    assert run(["report", "--run", "v1", *sink]) == 0
    assert f" {report} of 1 result with a price" in capsys.readouterr().out
    broker = f"sqlite:///{tmp_path}/tasks.db"
    with closing(open_any(Settings.from_env({"AGENTPIPE_BROKER": broker}))) as store:
        store.begin_run("v1", b"{}")
    assert run(["runs", "--broker", broker, *sink]) == 0
    assert f" {report} " in capsys.readouterr().out
    assert dollars(usd) == f"${report}"
    assert float(numbers.money(usd).replace(",", "").removeprefix("$")) == pytest.approx(usd, 0.05)


@pytest.mark.parametrize(
    ("usd", "shown"),
    [
        (0.0, "-"), (1.6e-06, "<$0.00001"), (2.16e-05, "$0.000022"), (12.5, "$12.50"),
        (9_999.99, "$9,999.99"), (12_345.67, "$12,346"), (99_999.7, "$100k"), (2.3e06, "$2.3M"),
    ],
)  # fmt: skip
def test_what_is_spent_fits_its_column(usd: float, shown: str) -> None:
    """A number that is cut reads as another one."""
    tally = Tally(done=1, evaluated=1, passed=1.0, usd=usd)
    seen = FleetHistory().seen(Snapshot(SCENE.now, fleet(agent(tally=tally))))
    lines = [line.plain for line in draw(seen, ScreenState(), SCENE, 160, 40)]
    (collection,) = (line for line in lines if "crew" in line)
    assert f" 100.0% {shown:>9}" in collection


def test_an_archived_run_is_graded_by_its_rewards_not_by_their_sum() -> None:
    report, _ = summarize([result("v1", task, reward=0.5) for task in range(2)])
    view = SimpleNamespace(report=report, complete=True, read=2)
    results: Any = SimpleNamespace(runs=lambda: ["v1"], view=lambda *_: view)

    def away() -> Any:
        raise Unreachable

    ((entry,), _) = entries(away, results)
    assert (entry.is_graded, entry.shown(0.5)) == (True, "0.500")


def test_dollars_are_those_of_a_price_list() -> None:
    shown = [dollars(usd) for usd in (0.0, 1e-20, 0.25, 0.1, 0.0125, 0.99999, 1, 2.5e-07)]
    assert shown == [
        "$0.00", "$0.00", "$0.25", "$0.10", "$0.0125", "$1.00", "$1.00", "$0.00000025",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rewards", "said", "cell"),
    [(3.0, "pass 75.0% of 4", "75.0%"), (3.1, "reward 0.775 of 4", "0.775")],
)
def test_the_mean_of_graded_rewards_is_no_pass_rate(rewards: float, said: str, cell: str) -> None:
    tally = Tally(done=4, evaluated=4, passed=rewards)
    kept = KeptRun("v2", b"{}", 8, outcomes={"ok": 4}, rewarded=4, rewards=rewards)
    stats = fleet(agent(tally=tally), tally=tally)
    seen = FleetHistory().seen(Snapshot(SCENE.now, stats, (kept,)))
    lines = [line.plain for line in draw(seen, ScreenState(), SCENE, 160, 40)]
    (total,) = (line for line in lines if line.startswith("total"))
    (of_run,) = (line for line in lines if "run v2" in line)
    assert said in total
    assert said in of_run
    (collection,) = (line for line in lines if "crew" in line and "run v2" not in line)
    assert cell in collection.split()
    entry = Entry(by_store(kept), on_broker=True)
    assert entry.shown(rewards / 4) == cell
    assert entry.is_graded == said.startswith("reward")
    pages = Pages(dict.fromkeys(("version", "broker", "sink"), "-"))
    values = {"runs": [entry], "problem": "", "reading": False, "here": "runs"}
    column = "reward" if entry.is_graded else "pass rate"
    assert f">{column}</th>" in pages.html("runs.html", **values)
