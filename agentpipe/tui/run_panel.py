"""The panels of runs and budgets, and of contexts with a concurrency limit."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING

from agentpipe.monitoring import numbers
from agentpipe.tui.panel import Panel
from agentpipe.tui.run_rows import run_rows
from agentpipe.tui.table import BAD, FAINT, GOOD, STRONG, WARN, Column, fill, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.brokers.statistics import QueueDepth
    from agentpipe.core.budgets import Spending
    from agentpipe.monitoring.history import FleetHistory, Snapshot
    from agentpipe.tui.run_rows import RunRow
    from agentpipe.tui.state import ScreenState

BAR = 20
# A budget's bar warns from this share on.
NEARLY = 0.9


def runs(history: FleetHistory, now: Snapshot, state: ScreenState, width: int) -> Panel:
    """Runs in progress, or the run of ``--run``, then budgets."""
    columns = [Column("runs and budgets", max(16, min(40, width // 4)), "left")]
    columns = fill([*columns, Column("", BAR, "left")], "", width)
    rows = [partial(_run, each) for each in run_rows(history, state.run)]
    rows += [partial(_budget, each) for each in now.stats.spendings]
    return Panel("runs and budgets", columns, rows)


def _run(each: RunRow) -> list[tuple[str, str]]:
    facts = [f"{numbers.count(each.done)} of {numbers.count(each.tasks)}"]
    if each.failed:
        facts.append(f"failed {numbers.count(each.failed)}")
    if each.pass_rate is not None:
        facts.append(numbers.judged(each.pass_rate * each.rewarded, each.rewarded))
    if each.usd:
        facts.append(f"spent {numbers.money(each.usd)}")
    if each.eta_s is not None:
        facts.append(f"ETA {numbers.duration(each.eta_s)}")
    if each.configs > 1:
        facts.append(f"{each.configs} configs")
    bar = _bar(each.done / each.tasks) if each.done is not None and each.tasks else ""
    style = WARN if each.configs > 1 else ""
    return [(f"run {plain(each.name, 80)}", STRONG), (bar, GOOD), ("  ".join(facts), style)]


def _budget(each: Spending) -> list[tuple[str, str]]:
    part = spent_part(each)
    style = BAD if each.is_spent else WARN if part >= NEARLY else ""
    said = f"{each.used} of {each.cap}" + (": spent" if each.is_spent else "")
    name = f"budget of {each.kind} {plain(each.name, 80)}"
    return [(name, ""), (_bar(part), style or GOOD), (said, style or FAINT)]


def spent_part(each: Spending) -> float:
    """The share of the budget that is spent, by the cap that is nearer."""
    parts = [0.0]
    if each.cap.usd:
        parts.append(each.usd / each.cap.usd)
    if each.cap.tokens:
        parts.append(each.tokens / each.cap.tokens)
    return 1.0 if each.is_spent else min(1.0, max(parts))


def _bar(part: float) -> str:
    full = int(BAR * min(1.0, max(0.0, part)))
    return "█" * full + "░" * (BAR - full)


def contexts(now: Snapshot, width: int) -> Panel:
    """Each context with a ``concurrency``: how much is used, and how many tasks wait."""
    groups: dict[tuple[str, int], list[QueueDepth]] = defaultdict(list)
    for depth in now.stats.queues:
        if depth.group is not None:
            groups[depth.group].append(depth)
    columns = [Column("contexts", max(19, min(40, width // 4)), "left"), Column("agents", 7)]
    columns += [Column("running", 9), Column("waiting", 7), Column("failed", 7)]
    columns = fill(columns, "", width)
    rows = [partial(_context, name, limit, depths) for (name, limit), depths in groups.items()]
    return Panel("contexts", columns, rows)


def _context(name: str, limit: int, depths: Sequence[QueueDepth]) -> list[tuple[str, str]]:
    running = sum(depth.running or 0 for depth in depths)
    waiting = sum(depth.waiting or 0 for depth in depths)
    failed = sum(depth.tally.failed for depth in depths)
    full = running >= limit and waiting > 0
    cooling = min((depth.cooldown_s or 0.0 for depth in depths), default=0.0)
    remark = f"cooldown {numbers.duration(cooling)}" if cooling else "at its limit" if full else ""
    return [
        (plain(name, 80), ""),
        (numbers.count(len(depths)), ""),
        (f"{numbers.count(running)}/{numbers.count(limit)}", WARN if full else ""),
        (numbers.count(waiting), ""),
        (numbers.count(failed), BAD if failed else ""),
        (remark, WARN),
    ]
