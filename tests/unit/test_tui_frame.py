"""What top draws: it fits, is harmless, and shows what matters."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console
from rich.text import Text

from agentpipe.brokers.runs import KeptRun
from agentpipe.brokers.statistics import Tally
from agentpipe.core.budgets import Budget, Spending
from agentpipe.core.loop_holds import LoopState
from agentpipe.core.policy import PolicySpec, PolicyState
from agentpipe.monitoring.history import FleetHistory, Snapshot
from agentpipe.training.loop_report import LoopFacts, LoopProgress, LoopReport
from agentpipe.tui.frame import draw
from agentpipe.tui.panel import Panel
from agentpipe.tui.state import Command, DeadRow, EndedRow, ScreenState
from agentpipe.tui.table import Column
from agentpipe.worker.claims.heartbeat import RunSeen
from tests.unit.fleets import NASTY, SCENE, agent, fleet, history, large, worker

if TYPE_CHECKING:
    from agentpipe.brokers.statistics import Stats

SIZES = ((80, 24), (20, 5), (1, 1))
MORE_SIZES = ((200, 60), (40, 10), (7, 3))
VIEWS = {
    "table": ScreenState(),
    "expanded": ScreenState(expanded=frozenset({"c3"}), selected="c3/c3_503"),
    "sorted": ScreenState(sort="failed", expanded=frozenset({"c1", "c2"})),
    "filtered": ScreenState(filter="c7_7"),
    "nothing": ScreenState(filter="no such thing"),
    "filtering": ScreenState(mode="filter", filter="漢字" * 30),
    "help": ScreenState(mode="help"),
    "dead": ScreenState(
        mode="dead", dead=(DeadRow(NASTY, NASTY, "crashed", NASTY, 3.0),) * 70, dead_index=9
    ),
    "fetching": ScreenState(mode="dead"),
    "none dead": ScreenState(mode="dead", dead=()),
    "cancel": ScreenState(mode="confirm", pending=Command("cancel", ("q",), NASTY)),
    "replay": ScreenState(mode="confirm", pending=Command("replay", ("t",), NASTY)),
    "notice": ScreenState(notice=NASTY),
    "tasks": ScreenState(
        mode="tasks", agent="c3_3", ended=(EndedRow(NASTY, NASTY, 0.5, 0.0, 1.0, NASTY),) * 70
    ),
    "no archive": ScreenState(mode="tasks", agent=NASTY, ended=(), no_results=NASTY),
    "task": ScreenState(mode="task", task_id=NASTY, page=(Text(NASTY),) * 70, scroll=9),
}


def shown(
    seen: FleetHistory, state: ScreenState | None = None, width: int = 80, height: int = 24
) -> list[str]:
    return [line.plain for line in draw(seen, state or ScreenState(), SCENE, width, height)]


def text(*looks: Stats, state: ScreenState | None = None, width: int = 80, height: int = 24) -> str:
    return "\n".join(shown(history(*looks), state, width, height))


@pytest.mark.parametrize("state", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize(
    ("width", "height"),
    [*SIZES, *(pytest.param(*size, marks=pytest.mark.long) for size in MORE_SIZES)],
)
def test_no_frame_is_larger_than_its_terminal(state: ScreenState, width: int, height: int) -> None:
    for seen in (
        large(),
        large().failed(990.0, NASTY),
        FleetHistory(),
        FleetHistory().failed(0.0, NASTY),
    ):
        lines = draw(seen, state, SCENE, width, height)
        assert len(lines) == height
        assert [line.cell_len for line in lines if line.cell_len > width] == []


@pytest.mark.parametrize("state", VIEWS.values(), ids=VIEWS)
def test_nothing_that_agents_say_reaches_the_terminal_as_it_is(state: ScreenState) -> None:
    for line in draw(large(), state, SCENE, 200, 60):
        assert line.plain.isprintable(), line.plain
        assert "\ud800" not in line.plain


def test_markup_is_text() -> None:
    error = Tally(failed=1, error="[bold red]boom[/bold red] :bomb:", error_s=1.0)
    assert "[bold red]boom[/bold red] :bomb:" in text(fleet(agent(tally=error)))


def printed(*, no_color: bool, color: bool = True) -> str:
    out = io.StringIO()
    system = "standard" if color else None
    console = Console(
        file=out,
        force_terminal=color,
        color_system=system,  # type: ignore[arg-type]
        no_color=no_color,
        soft_wrap=True,
    )
    for line in draw(large(), ScreenState(), SCENE, 80, 24):
        console.print(line)
    return out.getvalue()


def test_the_selection_is_visible_without_colour() -> None:
    assert "\x1b[31" in printed(no_color=False).replace("\x1b[1;31", "\x1b[31")
    plain = printed(no_color=True)
    assert not {f"\x1b[{code}m" for code in range(30, 48)} & set(plain.split("x"))
    assert ";31m" not in plain
    assert "\x1b[1;7m" in plain
    assert "\x1b" not in printed(no_color=True, color=False)


def test_a_frame_says_how_fast_it_goes_and_when_it_ends() -> None:
    before = fleet(agent(waiting=60), outcomes={"ok": 10}, accepted=100, delivered=10)
    after = fleet(
        agent(waiting=50), outcomes={"ok": 18, "limit": 2}, accepted=100, delivered=18, outbox=2
    )
    said = text(before, after)
    assert "10.0/s" in said
    assert "ok 8.0/s  limit 2.0/s" in said
    assert "total  ok 18  limit 2" in said
    assert "ETA 6.5 s" in said


def test_a_frame_says_what_passed_and_what_was_spent() -> None:
    stats = fleet(agent(), tally=Tally(done=4, evaluated=4, passed=3.0, usd=12.5))
    assert "pass 75.0% of 4  spent $12.50" in text(stats)


def test_a_policy_has_a_line() -> None:
    spec = PolicySpec("main", ("http://h/v1",), batch=64, max_staleness=1)
    state = PolicyState(spec, 7, paused=True, accepted=500, running=76, stale=2)
    said = text(fleet(agent(), policies=(state,)))
    assert "policy main  version 7  room 0  running 76  accepted 500  staleness 1  stale 2" in said
    free = PolicyState(PolicySpec("free", ("http://h/v1",)), 2, paused=True)
    assert "policy free  version 2  paused: requests wait" in text(fleet(agent(), policies=(free,)))


def loop(name: str, silent_s: float = 1.0, **progress: Any) -> LoopState:
    report = LoopReport(LoopFacts(name, f"{name}/", "agents", "main", 64))
    report.note(LoopProgress(**progress))
    return LoopState(name, "token", silent_s, report.encode())


def test_a_loop_has_a_line_and_one_whose_trainer_is_gone_comes_first() -> None:
    far = {"step": 12, "sent": 500, "out": 64, "used": 384, "wasted": 52}
    loops = (loop("alive", waits=True, **far), loop("lost", 300.0))
    policy = PolicyState(PolicySpec("main", ("http://h/v1",)), 7)
    stats = fleet(agent(), loops=loops, policies=(policy,))
    for width, height in ((80, 24), (200, 60)):
        head, first, second = (
            line.split()
            for line in shown(history(stats), None, width, height)[7:][-60:]
            if line.split()[:1] in (["loops"], ["lost"], ["alive"])
        )
        assert head[:7] == ["loops", "step", "version", "out", "used", "wasted", "rate"]
        assert first[:2] + first[-3:] == ["lost", "0", "gone", "5", "min"]
        assert second[:6] == ["alive", "12", "v7", "64", "384", "52"]
        assert second[-3:] == ["waits", "1.0", "s"]
    paused = replace(policy, paused=True)
    assert "policy paused" in text(replace(stats, policies=(paused,)))


def test_a_frame_says_what_was_given_up_and_what_the_sink_refuses() -> None:
    stats = fleet(agent(), dead=3, undeliverable=2)
    assert "dead 3  undeliverable 2" in text(stats)
    assert "undeliverable" not in text(fleet(agent()))


def test_a_collection_is_a_line_until_it_is_opened() -> None:
    agents = [
        agent("crew_0", waiting=3, running=1, tally=Tally(done=5, failed=1)),
        agent("crew_1", waiting=4, running=2, tally=Tally(done=6)),
    ]
    closed = text(fleet(*agents))
    (line,) = (line for line in closed.splitlines() if "▸ crew" in line)
    assert line.split()[2:] == ["7", "3/4", "-", "11", "1", "-"]
    assert "crew_1" not in closed
    expanded = text(fleet(*agents), state=ScreenState(expanded=frozenset({"crew"})))
    assert "▾ crew" in expanded
    (line,) = (line for line in expanded.splitlines() if "crew_1" in line)
    assert line.split() == ["crew_1", "4", "2/2", "-", "6", "0", "-"]


def test_a_collection_that_is_paused_for_its_failures_says_why() -> None:
    stopped = {"waiting": 4, "paused": True, "pause_reason": "10 runs in a row failed"}
    said = text(fleet(agent("crew_0", **stopped), agent("crew_1", **stopped)), width=160)
    (line,) = (line for line in said.splitlines() if "▸ crew" in line)
    assert "paused: 10 runs in a row failed" in line


def test_the_reason_of_the_bottleneck_is_whole_at_80_columns() -> None:
    busy = fleet(agent(waiting=4, running=2), workers=(worker(slots=8, running=2),))
    said = " ".join(text(busy).split())
    assert "at its concurrency limit: more workers would not run more)" in said


def test_columns_stand_below_their_titles() -> None:
    lines = shown(history(fleet(agent(waiting=12_345, tally=Tally(done=678)))), width=200)
    head = next(line for line in lines if "waiting delayed" in line)
    row = next(line for line in lines if "▸ crew" in line)
    for title, value in (("waiting", "12,345"), ("done", "678")):
        assert head.index(title) + len(title) == row.index(value) + len(value)


def test_what_a_broker_cannot_know_is_a_question_mark() -> None:
    stats = replace(fleet(agent(delayed=None)), accepted=None, delivered=None)
    said = text(stats, width=200)
    assert "sent ?" in said
    assert "delivered ?" in said


def test_workers_in_trouble_come_first() -> None:
    said = text(
        fleet(
            workers=(
                worker("a-good", 8, 3),
                worker("b-down", 8, 0, sink_down_s=75.0, sink_error="gone"),
                replace(worker("c-silent"), seen_s=20.0),
                worker("an-operator", 0),
            )
        )
    )
    lines = [line for line in said.splitlines() if line.startswith(("a-", "b-", "c-", "an-"))]
    assert [line.split()[0] for line in lines] == ["b-down", "c-silent", "a-good"]
    assert "3/8     2 ms   64 MiB   1.0 s ago" in lines[2]
    assert lines[0].rstrip().endswith("sink down 75 s")


def test_errors_are_listed_the_youngest_first() -> None:
    said = text(
        fleet(
            agent("crew_0", tally=Tally(error="OSError: old", error_s=90.0)),
            agent("crew_1", tally=Tally(error="OSError: new", error_s=1.0)),
        )
    )
    assert said.index("1.0 s ago OSError: new") < said.index("90 s ago OSError: old")


def test_a_panel_draws_only_what_there_is_space_for() -> None:
    drawn: list[int] = []

    def cells(number: int) -> list[tuple[str, str]]:
        drawn.append(number)
        return [(f"agent {number}", "")]

    panel = Panel("agents", [Column("agents", 12, "left")], [partial(cells, at) for at in range(9)])
    assert [panel.height, *map(str.rstrip, map(str, panel.lines(4)))] == [
        10,
        "agents  6 more agents",
        "agent 0",
        "agent 1",
        "agent 2",
    ]
    assert drawn == [0, 1, 2]
    assert str(panel.lines(10)[0]) == "agents"
    assert panel.lines(0) == []


def test_servers_and_children_of_a_worker_are_shown_where_there_are_some() -> None:
    busy = worker("busy", servers=12, children_bytes=3 * 2**30)
    said = text(fleet(agent(running=1), workers=(busy, worker("calm"))), width=140)
    lines = said.splitlines()
    (with_servers,) = (line for line in lines if line.startswith("busy"))
    (without,) = (line for line in lines if line.startswith("calm"))
    assert with_servers.rstrip().endswith("MCP servers 12")
    assert "3.1 GiB  3.0 GiB" in with_servers
    assert "servers" not in without


def test_what_runs_is_listed_with_what_it_does_and_what_ended_below() -> None:
    run = RunSeen("crew_0", "t-runs", 60.0, "tool web.search")
    other = RunSeen("crew_1", "t-other", 90.0)
    stats = fleet(agent(running=1), workers=(worker(running=2, runs=(run, other)),))
    ended = (EndedRow("t-done", "agent_error", 0.25, 940.0, 2.5, "OSError: gone"),)
    state = ScreenState(mode="tasks", agent="crew_0", ended=ended)
    scene = replace(SCENE, clock_s=1_000.0)
    lines = [line.plain for line in draw(history(stats), state, scene, 120, 24)]
    (running,) = (line for line in lines if "t-runs" in line)
    assert running.split() == ["t-runs", "running", "61", "s", "tool", "web.search"]
    (done,) = (line for line in lines if "t-done" in line)
    assert done.split()[:6] == ["t-done", "agent_error", "60", "s", "ago", "0.25"]
    assert "OSError: gone" in done
    assert not any("t-other" in line for line in lines)
    wide = text(stats, width=200, height=60)
    assert wide.index("t-other") < wide.index("t-runs"), "the oldest of all agents first"


def test_a_context_is_a_row_with_its_limit() -> None:
    stats = fleet(
        agent("crew_0", waiting=4, running=2, group=("key-a", 3)),
        agent("crew_1", running=1, group=("key-a", 3)),
        agent("crew_2", running=1, group=("key-b", 8)),
        workers=(worker(slots=16, running=4),),
    )
    lines = text(stats, width=120, height=40).splitlines()
    (full,) = (line for line in lines if line.startswith("key-a"))
    assert full.split() == ["key-a", "2", "3/3", "4", "0", "at", "its", "limit"]
    (free,) = (line for line in lines if line.startswith("key-b"))
    assert free.split() == ["key-b", "1", "1/8", "0", "0"]


def kept(done: int, **fields: Any) -> KeptRun:
    outcomes = {"ok": done - 1, "limit": 1}
    return KeptRun("v2", b"", 100, outcomes=outcomes, rewarded=done, rewards=done / 2, **fields)


def run_lines(*done: int, state: ScreenState | None = None, **depth: Any) -> list[str]:
    seen = FleetHistory()
    stats = fleet(agent(**{"running": 2, **depth}), workers=(worker(),))
    for back, number in zip(range(len(done) - 1, -1, -1), done, strict=True):
        runs = (kept(number, configs={"a": 5, "b": 6}),)
        seen = seen.seen(Snapshot(SCENE.now - 10.0 * back, stats, runs))
    lines = draw(seen, state or ScreenState(), SCENE, 140, 40)
    return [line.plain for line in lines if "run v2" in line.plain]


def test_a_run_has_a_line_with_its_bar_and_when_it_ends() -> None:
    (line,) = run_lines(40, 60)
    assert "████████████░░░░░░░░" in line
    assert "60 of 100  failed 1  pass 50.0% of 60  ETA 20 s  2 configs" in line
    assert run_lines(80, 100) == [], "it has ended"
    assert len(run_lines(80, 100, state=ScreenState(run="v2"))) == 1
    assert run_lines(40, 60, state=ScreenState(run="v3")) == []


@pytest.mark.parametrize("depth", [{"paused": True, "waiting": 40}, {"running": 0}])
def test_a_run_that_does_not_move_has_no_end(depth: dict[str, Any]) -> None:
    (line,) = run_lines(40, 60, **depth)
    assert "ETA" not in line


def test_budgets_have_bars() -> None:
    spendings = (
        Spending("collection", "crew", Budget(usd=50.0), usd=25.0),
        Spending("run", "v2", Budget(tokens=1000), tokens=1200),
    )
    lines = text(fleet(agent(), spendings=spendings), width=120, height=40).splitlines()
    (half,) = (line for line in lines if "budget of collection crew" in line)
    assert "██████████░░░░░░░░░░" in half
    assert "$25.00 of $50.00" in half
    (spent,) = (line for line in lines if line.startswith("budget of run v2"))
    assert "████████████████████" in spent
    assert "1,200 tokens of 1,000 tokens: spent" in spent


def test_a_large_screen_is_used_whole() -> None:
    looks = [fleet(agent(running=1), workers=(worker(),), outcomes={"ok": n * n}) for n in range(9)]
    lines = shown(history(*looks, every_s=2.0), width=200, height=60)
    assert any("ended per second, the last" in line for line in lines)
    assert any("█" in line for line in lines[20:])


def test_the_oldest_run_is_the_oldest_that_any_worker_reports() -> None:
    workers = (worker("a", oldest_s={"crew_0": 61.0}), worker("b", oldest_s={"crew_0": 7_200.0}))
    said = text(fleet(agent(running=1), workers=workers))
    assert "2.0 h" in next(line for line in said.splitlines() if "▸ crew" in line)


def test_an_unreachable_broker_is_a_banner_above_the_last_snapshot() -> None:
    seen = history(fleet(agent(waiting=5))).failed(SCENE.now - 61, "refused").failed(0, "still")
    said = shown(seen)
    assert "BROKER UNREACHABLE for 61 s, retrying: still" in said[1]
    assert any("▸ crew" in line for line in said)
    back = seen.seen(history(fleet(agent())).recent[-1])
    assert "UNREACHABLE" not in "".join(shown(back))


def test_a_broker_that_does_not_answer_is_unreachable() -> None:
    seen = history(fleet(agent()))
    late = replace(SCENE, now=SCENE.now + 12)
    assert "BROKER UNREACHABLE for 12 s" in draw(seen, ScreenState(), late, 80, 24)[1].plain


def test_it_says_so_before_the_first_snapshot() -> None:
    assert any("connecting" in line for line in shown(FleetHistory()))


def test_the_help_is_whole_on_a_small_terminal() -> None:
    lines = shown(large(), ScreenState(mode="help"))
    assert "quit" in "".join(lines)
    assert "? and -" in "".join(lines)
    assert "…" not in "".join(lines)


def test_the_selected_row_is_always_visible() -> None:
    state = ScreenState(expanded=frozenset({"c3"}), selected="c3/c3_993")
    assert any("c3_993" in line for line in shown(large(), state))


@pytest.mark.parametrize(("width", "height"), [(50, 12), (80, 12), (40, 10)])
def test_the_collections_stay_on_the_smallest_terminal(width: int, height: int) -> None:
    lines = [line.plain for line in draw(large(), ScreenState(), SCENE, width, height)]
    assert any("collection / agent" in line for line in lines)
    assert any("▸ c0" in line for line in lines)
    assert not any("last errors" in line for line in lines)
