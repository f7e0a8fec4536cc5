"""Draws the screen as lines of text for a given size. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from rich.text import Text

from agentpipe.monitoring import numbers
from agentpipe.monitoring.bottleneck import Bottleneck, find_bottleneck
from agentpipe.monitoring.history import eta_s, outcome_rates, rates_of, throughput
from agentpipe.monitoring.rows import SORTS
from agentpipe.monitoring.stages import stages_of
from agentpipe.operations.misfits import misfits_of_fleet
from agentpipe.show.page import LEAST_WIDTH, spans
from agentpipe.tui.panels import dead_letters, panels
from agentpipe.tui.table import BAD, FAINT, GOOD, STRONG, WARN, harmless, outcome_style, plain
from agentpipe.tui.tasks import agent_tasks, task_page

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.brokers.statistics import Stats
    from agentpipe.core.policy import PolicyState
    from agentpipe.monitoring.history import FleetHistory, Rates, Snapshot
    from agentpipe.settings import OutboxLimits
    from agentpipe.tui.state import ScreenState

BUCKET_S = 2.0
SPARK = 20
# The reason of the bottleneck takes at most this part of the lines.
BOTTLENECK_PART = 8
HELP = (
    ("↑ ↓ PgUp PgDn", "select a collection or an agent"),
    ("Enter", "open a collection, an agent's tasks, a task; Esc goes back"),
    ("/", "filter by words in name or last error; Esc clears it"),
    ("s", f"sort by {', '.join(SORTS)} in turn"),
    ("p", "pause or resume the selection; running tasks go on"),
    ("c", "cancel all its tasks, also running ones; asks first"),
    ("d", "dead letters; there, r replays the selected one; asks first"),
    ("? q", "this help; quit"),
    ("", ""),
    ("»waiting«", "the bottleneck; the line below says why"),
    ("waiting", "accepted, not claimed yet; delayed: waits for its next try"),
    ("outbox", "done, not confirmed by the sink; lag: age of the oldest result"),
    ("oldest", "age of the oldest run, as last reported by its worker"),
    ("failed", "ended with an outcome other than ok or cancelled"),
    ("? and -", "the broker cannot know; none, or not known yet"),
)


KEYS = {
    "table": "↑↓ Enter open  q quit  ? help  / filter  s sort  p pause  c cancel  d dead",
    "help": "any key: back",
    "dead": "↑↓ select  r replay  q back",
    "tasks": "↑↓ select  Enter show  r look again  q back",
}


@dataclass(frozen=True, slots=True)
class Display:
    """Values that a frame shows besides history and state.

    Attributes:
        broker: The broker's URL, without a password.
        now: The time on the monotonic clock, as in the history.
        clock: The time of day; ``clock_s`` is the same in Unix seconds.
        late_s: The broker counts as unreachable without a snapshot for this long.
    """

    broker: str
    limits: OutboxLimits
    now: float = 0.0
    clock: str = ""
    clock_s: float = 0.0
    late_s: float = 10.0


def draw(
    history: FleetHistory, state: ScreenState, display: Display, width: int, height: int
) -> list[Text]:
    """At most ``height`` lines of at most ``width`` cells; the last line lists the keys."""
    lines = _body(history, state, display, width, height - 1)[: max(0, height - 1)]
    lines.append(_footer(state))
    lines = [harmless(line) for line in lines[: max(0, height)]]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def _body(
    history: FleetHistory, state: ScreenState, display: Display, width: int, height: int
) -> list[Text]:
    lines = [_title(display, width), *_banner(history, display)]
    lines += _content(history, state, display, width, height - len(lines))
    return [*lines, *(Text() for _ in range(height - len(lines)))]


def _content(
    history: FleetHistory, state: ScreenState, display: Display, width: int, height: int
) -> list[Text]:
    if state.mode == "help":
        return _help()
    if state.shows_dead:
        return dead_letters(state, width, height)
    if state.mode == "tasks":
        return agent_tasks(history.now, state, display.clock_s, width, height)
    if state.mode == "task":
        return task_page(state, height)
    if history.now is None:
        return [] if history.outage else [Text("connecting ...", FAINT)]
    lines = _overview(history, history.now, display, width, height)
    return [*lines, *panels(history, history.now, state, width, height - len(lines))]


def _title(display: Display, width: int) -> Text:
    left = Text.assemble(("agentpipe top", STRONG), "  ")
    room = width - left.cell_len - len(display.clock) - 1
    left.append(plain(display.broker, room), FAINT)
    left.append(" " * max(1, width - left.cell_len - len(display.clock)))
    return left.append(display.clock, FAINT)


def _banner(history: FleetHistory, display: Display) -> list[Text]:
    """The banner that is shown while the broker is unreachable and the screen is stale."""
    since, why = None, "no answer"
    if history.outage is not None:
        since, why = history.outage.since, plain(history.outage.why, 300)
    elif history.now is not None and display.now - history.now.at > display.late_s:
        since = history.now.at
    if since is None:
        return []
    words = f" BROKER UNREACHABLE for {numbers.duration(display.now - since)}, retrying: {why} "
    return [Text(words, f"{BAD} reverse")]


def _help() -> list[Text]:
    return [Text(), *(Text.assemble((f"  {keys:<15}", STRONG), words) for keys, words in HELP)]


# The fleet as a whole.


def _overview(
    history: FleetHistory, now: Snapshot, display: Display, width: int, height: int
) -> list[Text]:
    rates = rates_of(history)
    bottleneck = find_bottleneck(now, rates, display.limits)
    return [
        _speed(history, rates),
        _totals(now.stats),
        *map(_policy, now.stats.policies),
        *_flow(now, rates, bottleneck),
        *_wrapped(_bottleneck(bottleneck), width, max(1, height // BOTTLENECK_PART)),
        *(Text(plain(words, 400), WARN) for words in misfits_of_fleet(now.stats)),
    ]


def _speed(history: FleetHistory, rates: Rates) -> Text:
    """Current and recent throughput, the rate of each outcome, and the ETA."""
    bars = numbers.sparkline(throughput(history, SPARK, BUCKET_S))
    line = Text.assemble("now    ", (f"{numbers.rate(rates.ended):>7} ", STRONG), (bars, GOOD))
    for name, per_s in _by_number(outcome_rates(history)):
        line.append(f"  {plain(name, 20)} ", outcome_style(name))
        line.append(numbers.rate(per_s))
    if (left_s := eta_s(history, rates)) is not None:
        line.append(f"  ETA {numbers.duration(left_s)}", STRONG)
    return line


def _totals(stats: Stats) -> Text:
    line = Text("total  ")
    for name, number in _by_number(stats.outcomes):
        line.append(f"{plain(name, 20)} ", outcome_style(name))
        line.append(f"{numbers.count(int(number))}  ")
    for name, lost in (("dead", stats.dead), ("undeliverable", stats.undeliverable)):
        if lost:
            line.append(f"{name} ", BAD)
            line.append(f"{numbers.count(lost)}  ")
    if stats.tally.evaluated:
        line.append(f"{numbers.judged(stats.tally.passed, stats.tally.evaluated)}  ")
    if stats.tally.usd:
        line.append(f"spent {numbers.money(stats.tally.usd)}  ")
    for spending in stats.spendings:
        if spending.is_spent:
            line.append(f"budget of {spending.kind} {plain(spending.name, 40)} spent  ", WARN)
    return line


def _policy(state: PolicyState) -> Text:
    """A trainer's policy: its version, and how many tasks can begin."""
    line = Text.assemble("policy ", (plain(state.name, 40), STRONG), f"  version {state.version}")
    if state.room is not None:
        line.append(f"  room {numbers.count(max(0, state.room))}", WARN if state.room <= 0 else "")
        line.append(f"  running {numbers.count(state.running)}  accepted ")
        line.append(f"{numbers.count(state.accepted)}  staleness {state.staleness}")
    if state.stale:
        line.append(f"  stale {numbers.count(state.stale)}", WARN)
    if state.paused:
        line.append("  paused: requests wait", WARN)
    return line


def _by_number(numbers: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(numbers.items(), key=lambda item: (-item[1], item[0]))


def _flow(now: Snapshot, rates: Rates, bottleneck: Bottleneck) -> list[Text]:
    """The stages in one line, their rates in the line below."""
    upper, lower = Text(), Text()
    for stage in stages_of(now, rates):
        if upper:
            upper.append("→", FAINT)
        lower.append(" " * (upper.cell_len - lower.cell_len))
        _add_stage(upper, stage.name, stage.shown("/"), bottleneck)
        lower.append(f" {stage.below} ", FAINT)
        upper.append(" " * (lower.cell_len - upper.cell_len))
    return [upper, lower]


def _add_stage(line: Text, stage: str, figure: str, bottleneck: Bottleneck) -> None:
    marked = stage == bottleneck.stage
    left, right = "»«" if marked else "  "
    style = (BAD if bottleneck.urgent else WARN) if marked else ""
    line.append(f"{left}{stage} ", style)
    line.append(f"{figure}{right}", style or STRONG)


def _bottleneck(bottleneck: Bottleneck) -> Text:
    reason = plain(bottleneck.reason, 400)
    if not bottleneck.stage:
        return Text(f"no bottleneck: {reason}", FAINT)
    label = f"bottleneck: {bottleneck.stage} "
    return Text.assemble((label, BAD if bottleneck.urgent else WARN), (f"({reason})", STRONG))


def _wrapped(line: Text, width: int, most: int) -> list[Text]:
    """A line that is not empty, on as many as it needs, up to ``most``; the rest is cut."""
    found = spans(line.plain, max(LEAST_WIDTH, width))
    *first, (last, _) = islice(found, most)
    return [*(line[start:end] for start, end in first), line[last:]]


# The line of keys.


def _footer(state: ScreenState) -> Text:
    if state.mode == "confirm":
        return _question(state)
    if state.mode == "filter":
        typed = (plain(state.filter, 60) if state.filter else "", "")
        return Text.assemble(("/", STRONG), typed, ("▏ Enter keeps it, Esc clears it", FAINT))
    if state.notice:
        return Text(plain(state.notice, 400), STRONG)
    if state.mode == "task":
        at, lines = state.scroll + 1, len(state.page or ())
        return Text(f"↑↓ PgUp PgDn scroll  q back  line {at:,} of {lines:,}", FAINT)
    keys = KEYS.get(state.mode, KEYS["table"])
    filtered = state.filter and state.mode == "table"
    shown = f"/{plain(state.filter, 30)} Esc clears it  " if filtered else ""
    return Text.assemble((shown, WARN), (keys, FAINT))


def _question(state: ScreenState) -> Text:
    assert state.pending is not None
    name = plain(state.pending.label, 40)
    words = {
        "cancel": f"Cancel all tasks of {name}, also the running ones?",
        "replay": f"Send {name} again, as a new task?",
    }
    return Text(f"{words[state.pending.verb]} y/n", WARN)
