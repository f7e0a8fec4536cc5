"""The panel of trainers' loops: their progress, and whether the trainer waits or is gone."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from agentpipe.monitoring import numbers
from agentpipe.operations.loops import loops_seen
from agentpipe.tui.panel import Panel
from agentpipe.tui.table import BAD, FAINT, STRONG, WARN, Column, fill, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.core.policy import PolicyState
    from agentpipe.monitoring.history import Snapshot
    from agentpipe.operations.loops import LoopSeen

WIDE = 110
_STYLES = {"waits": WARN, "trains": FAINT, "alive": FAINT, "gone": BAD}


def loops(now: Snapshot, width: int) -> Panel:
    """The loops, those whose trainer is gone first."""
    columns = _columns(width)
    policies = {policy.name: policy for policy in now.stats.policies}
    found = sorted(loops_seen(now.stats.loops), key=lambda it: (it.state != "gone", it.name))
    rows = [partial(_values, it, policies.get(it.policy or ""), columns) for it in found]
    return Panel("loops", columns, rows)


def _columns(width: int) -> list[Column]:
    columns = [Column("loops", max(16, min(40, width // 4)), "left"), Column("step", 6)]
    columns += [Column("version", 7), Column("out", 6), Column("used", 7), Column("wasted", 7)]
    columns += [Column("rate", 7)]
    if width >= WIDE:
        columns += [Column("trainer", max(20, width // 6), "left"), Column("since", 19, "left")]
    return fill(columns, "", width)


def _values(
    loop: LoopSeen, policy: PolicyState | None, columns: Sequence[Column]
) -> list[tuple[str, str]]:
    version = numbers.NONE if policy is None else f"v{policy.version}"
    values = {
        "loops": (plain(loop.name, 80), STRONG),
        "step": (_known(loop.step), ""),
        "version": (version, ""),
        "out": (_known(loop.out), ""),
        "used": (_known(loop.used), ""),
        "wasted": (_known(loop.wasted), ""),
        "rate": (numbers.rate(loop.per_s), ""),
        "trainer": (f"{plain(loop.host or numbers.UNKNOWN, 80)}:{loop.pid}", FAINT),
        "since": ((loop.since or numbers.NONE)[:19].replace("T", " "), FAINT),
        "": _remark(loop, policy),
    }
    return [values[column.title] for column in columns]


def _remark(loop: LoopSeen, policy: PolicyState | None) -> tuple[str, str]:
    if loop.state != "gone" and policy is not None and policy.paused:
        return "policy paused", WARN
    lasts = "" if loop.state_s is None else f" {numbers.duration(loop.state_s)}"
    return f"{loop.state}{lasts}", _STYLES[loop.state]


def _known(number: int | None) -> str:
    return numbers.NONE if number is None else numbers.count(number)
