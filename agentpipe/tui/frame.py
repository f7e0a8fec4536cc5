"""Frame: what is seen, as lines of a terminal of some size; a pure function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.text import Text

from agentpipe.tui import numbers
from agentpipe.tui.bottleneck import Verdict, verdict_of
from agentpipe.tui.history import eta_s, outcome_rates, rates_of, throughput
from agentpipe.tui.panels import dead, panels
from agentpipe.tui.state import SORTS
from agentpipe.tui.table import BAD, FAINT, GOOD, STRONG, WARN, plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.brokers.base import Stats
    from agentpipe.settings import Marks
    from agentpipe.tui.history import History, Rates, Snapshot
    from agentpipe.tui.state import View

BUCKET_S = 2.0
SPARK = 20
HELP = (
    ("↑ ↓ PgUp PgDn", "choose a collection or an agent"),
    ("Enter", "open a collection, or close it"),
    ("/", "show only what has these words in name or error; Esc ends it"),
    ("s", f"sort by {', '.join(SORTS)}, in turn"),
    ("p", "pause what is chosen, or resume it: what runs goes on"),
    ("c", "cancel all of its tasks, the running ones too; asks first"),
    ("d", "dead letters; there r replays the chosen one, and asks first"),
    ("? q", "this help; quit"),
    ("", ""),
    ("»waiting«", "this stage holds everything up; below it says why"),
    ("waiting", "accepted, not claimed yet; delayed: waits for its next try"),
    ("outbox", "done, and not confirmed by the sink; lag: the age of the oldest"),
    ("oldest", "how long the oldest run has been running when its worker told"),
    ("failed", "answered otherwise than ok or cancelled"),
    ("? and -", "this broker cannot know; there is none, or nothing is known yet"),
)


@dataclass(frozen=True, slots=True)
class Scene:
    """What is neither in the store nor chosen.

    Attributes:
        broker: Its URL, without a password.
        now: On the monotonic clock, as the history's times.
        clock: The time of the day.
        late_s: After so long without a snapshot the broker is said to be away.
    """

    broker: str
    marks: Marks
    now: float = 0.0
    clock: str = ""
    late_s: float = 10.0


def draw(history: History, view: View, scene: Scene, width: int, height: int) -> list[Text]:
    """At most ``height`` lines of at most ``width`` cells; the last one is for the keys."""
    lines = _body(history, view, scene, width, height - 1)[: max(0, height - 1)]
    lines.append(_footer(view))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines[: max(0, height)]


def _body(history: History, view: View, scene: Scene, width: int, height: int) -> list[Text]:
    lines = [_title(scene, width), *_banner(history, scene)]
    lines += _content(history, view, scene, width, height - len(lines))
    return [*lines, *(Text() for _ in range(height - len(lines)))]


def _content(history: History, view: View, scene: Scene, width: int, height: int) -> list[Text]:
    if view.mode == "help":
        return _help()
    if view.looks_at_dead:
        return dead(view, width, height)
    if history.now is None:
        return [] if history.away else [Text("connecting ...", FAINT)]
    lines = _overview(history, history.now, scene)
    return [*lines, *panels(history, history.now, view, width, height - len(lines))]


def _title(scene: Scene, width: int) -> Text:
    left = Text.assemble(("agentpipe top", STRONG), "  ")
    room = width - left.cell_len - len(scene.clock) - 1
    left.append(plain(scene.broker, room), FAINT)
    left.append(" " * max(1, width - left.cell_len - len(scene.clock)))
    return left.append(scene.clock, FAINT)


def _banner(history: History, scene: Scene) -> list[Text]:
    """What is below is old, where there is one."""
    since, why = None, "it does not answer"
    if history.away is not None:
        since, why = history.away.since, plain(history.away.why, 300)
    elif history.now is not None and scene.now - history.now.at > scene.late_s:
        since = history.now.at
    if since is None:
        return []
    words = f" BROKER AWAY for {numbers.duration(scene.now - since)}, trying again: {why} "
    return [Text(words, f"{BAD} reverse")]


def _help() -> list[Text]:
    return [Text(), *(Text.assemble((f"  {keys:<15}", STRONG), words) for keys, words in HELP)]


# What is true of the whole.


def _overview(history: History, now: Snapshot, scene: Scene) -> list[Text]:
    rates = rates_of(history)
    verdict = verdict_of(now, rates, scene.marks)
    return [
        _speed(history, rates),
        _totals(now.stats),
        *_flow(now, rates, verdict),
        _why(verdict),
    ]


def _speed(history: History, rates: Rates) -> Text:
    """Throughput, now and lately, and how it ends."""
    bars = numbers.sparkline(throughput(history, SPARK, BUCKET_S))
    line = Text.assemble("now    ", (f"{numbers.rate(rates.ended):>7} ", STRONG), (bars, GOOD))
    for name, per_s in _by_number(outcome_rates(history)):
        line.append(f"  {plain(name, 20)} ", _outcome_style(name))
        line.append(numbers.rate(per_s))
    if (left_s := eta_s(history, rates)) is not None:
        line.append(f"  all done in {numbers.duration(left_s)}", STRONG)
    return line


def _totals(stats: Stats) -> Text:
    line = Text("total  ")
    for name, number in _by_number(stats.outcomes):
        line.append(f"{plain(name, 20)} ", _outcome_style(name))
        line.append(f"{numbers.count(int(number))}  ")
    if stats.dead:
        line.append("dead ", BAD)
        line.append(f"{numbers.count(stats.dead)}  ")
    if stats.tally.evaluated:
        passed = stats.tally.passed / stats.tally.evaluated
        line.append(f"pass {passed:.1%} of {numbers.count(stats.tally.evaluated)}  ")
    if stats.tally.usd:
        line.append(f"spent {numbers.money(stats.tally.usd)}")
    return line


def _by_number(numbers: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(numbers.items(), key=lambda item: (-item[1], item[0]))


def _outcome_style(name: str) -> str:
    return {"ok": GOOD, "cancelled": FAINT, "stale": FAINT}.get(name, BAD)


def _flow(now: Snapshot, rates: Rates, verdict: Verdict) -> list[Text]:
    """The stages in a line, and below each how fast it goes."""
    upper, lower = Text(), Text()
    for stage, figure, below in _stages(now, rates):
        if upper:
            upper.append("→", FAINT)
        lower.append(" " * (upper.cell_len - lower.cell_len))
        _add_stage(upper, stage, figure, verdict)
        lower.append(f" {below} ", FAINT)
        upper.append(" " * (lower.cell_len - upper.cell_len))
    return [upper, lower]


def _stages(now: Snapshot, rates: Rates) -> list[tuple[str, str, str]]:
    stats = now.stats
    slots = sum(worker.slots for worker in stats.workers)
    busy = f"{numbers.count(stats.running)}/{numbers.count(slots)}"
    delayed = f"{numbers.count(stats.delayed)} delayed" if stats.delayed else ""
    lag = f"lag {numbers.duration(now.sink_lag_s)}" if stats.outbox else ""
    return [
        ("sent", numbers.count(stats.accepted), _some(rates.sent)),
        ("waiting", numbers.count(stats.waiting), delayed),
        ("running", busy, _some(rates.ended)),
        ("outbox", numbers.count(stats.outbox), lag),
        ("delivered", numbers.count(stats.delivered), _some(rates.delivered)),
    ]


def _add_stage(line: Text, stage: str, figure: str, verdict: Verdict) -> None:
    marked = stage == verdict.stage
    left, right = "»«" if marked else "  "
    style = (BAD if verdict.bad else WARN) if marked else ""
    line.append(f"{left}{stage} ", style)
    line.append(f"{figure}{right}", style or STRONG)


def _some(per_s: float | None) -> str:
    return "" if per_s is None else numbers.rate(per_s)


def _why(verdict: Verdict) -> Text:
    words = plain(verdict.words, 400)
    if not verdict.stage:
        return Text(f"nothing holds it up: {words}", FAINT)
    return Text.assemble(
        (f"{verdict.stage} holds it up: ", BAD if verdict.bad else WARN), (words, STRONG)
    )


# The line for the keys.


def _footer(view: View) -> Text:
    if view.mode == "ask":
        return _question(view)
    if view.mode == "filter":
        typed = (plain(view.filter, 60) if view.filter else "", "")
        return Text.assemble(("/", STRONG), typed, ("▏ Enter keeps it, Esc ends it", FAINT))
    if view.notice:
        return Text(plain(view.notice, 400), STRONG)
    if view.mode == "dead":
        return Text("↑↓ choose  r replay  q back", FAINT)
    if view.mode == "help":
        return Text("any key goes back", FAINT)
    keys = "↑↓ Enter open  / filter  s sort  p pause  c cancel  d dead  ? help  q quit"
    shown = f"/{plain(view.filter, 30)} Esc ends it  " if view.filter else ""
    return Text.assemble((shown, WARN), (keys, FAINT))


def _question(view: View) -> Text:
    assert view.asked is not None
    name = plain(view.asked.shown, 40)
    words = {
        "cancel": f"Cancel all tasks of {name}, the running ones too?",
        "replay": f"Send {name} again, as a new task?",
    }
    return Text(f"{words[view.asked.verb]} y/n", WARN)
