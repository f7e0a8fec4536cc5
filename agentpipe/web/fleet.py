"""Fleet: one snapshot of the broker, drawn once for all viewers."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentpipe.core.text import one_line
from agentpipe.monitoring import numbers
from agentpipe.monitoring.bottleneck import find_bottleneck
from agentpipe.monitoring.fetch import Fetcher
from agentpipe.monitoring.history import eta_s, outcome_rates, rates_of
from agentpipe.monitoring.rows import NO_COLLECTION, rows_of
from agentpipe.monitoring.stages import stages_of
from agentpipe.operations.loops import loops_seen
from agentpipe.operations.misfits import misfits_of_fleet
from agentpipe.web.hour import Hour

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.statistics import Stats, WorkerSeen
    from agentpipe.monitoring.history import FleetHistory, Rates, Snapshot
    from agentpipe.monitoring.rows import Row
    from agentpipe.settings import OutboxLimits
    from agentpipe.web.pages import Pages
    from agentpipe.worker.claims.heartbeat import Heartbeat

INTERVAL_S = 2.0
# After this long without a change, send a comment, to detect whether the viewer is still there.
QUIET_S = 15.0
# A collection's further agents are on their own page.
AGENTS_SHOWN, WORKERS_SHOWN, ERRORS_SHOWN = 20, 100, 20
_REASON_CHARS = 400


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of the flow, with its figure and the text below it."""

    name: str
    figure: str
    below: str
    marked: bool
    urgent: bool


class Fleet:
    """Polls the broker, and sends changes to viewers.

    Args:
        pages: Renders ``live.html``, which every viewer gets.
    """

    def __init__(self, open_store: Callable[[], Store], limits: OutboxLimits, pages: Pages) -> None:
        self._limits, self._pages = limits, pages
        self._hour = Hour()
        self._fetcher = Fetcher(open_store, INTERVAL_S, self._changed, persists=True)
        self._drawing = threading.Lock()
        self._drawn: tuple[FleetHistory | None, str] = (None, "")
        self._viewers: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    def start(self) -> None:
        """Start polling."""
        self._fetcher.start()

    def stop(self) -> None:
        """Stop polling."""
        self._fetcher.stop()

    def html(self) -> str:
        """The live part of the page, as of the last snapshot."""
        with self._drawing:
            history = self._fetcher.history
            if self._drawn[0] is not history or history.now is None:
                began_s = time.thread_time()
                self._drawn = history, self._pages.html("live.html", **self._values(history))
                self._fetcher.drawing_s = time.thread_time() - began_s
            return self._drawn[1]

    async def events(self) -> AsyncIterator[str]:
        """Yield the live part after each snapshot, as server-sent events."""
        changed = asyncio.Event()
        self._viewers[changed] = asyncio.get_running_loop()
        try:
            while True:
                html = await asyncio.to_thread(self.html)
                yield "".join(f"data: {line}\n" for line in html.splitlines()) + "\n"
                changed.clear()
                while not await _is_set(changed, QUIET_S):
                    yield ": still here\n\n"
        finally:
            del self._viewers[changed]

    def agents(self, collection: str) -> list[Row]:
        """All agents of a collection."""
        rows = rows_of(self._fetcher.history, expanded={collection})
        return [
            row for row in rows if row.key.startswith(f"{collection}/") and row.expanded is None
        ]

    def _changed(self) -> None:
        """Keep the snapshot and wake viewers; called in the fetcher's thread."""
        now = self._fetcher.history.now
        if now is not None:
            self._hour.add(now.at, now.stats)
        for changed, loop in list(self._viewers.items()):
            loop.call_soon_threadsafe(changed.set)

    def _values(self, history: FleetHistory) -> dict[str, Any]:
        trouble = self._trouble(history)
        if history.now is None:
            return {"trouble": trouble, "now": None}
        return {"trouble": trouble, "charts": self._hour.charts(), **self._known(history)}

    def _trouble(self, history: FleetHistory) -> str:
        if history.outage is None:
            return ""
        since = numbers.duration(time.monotonic() - history.outage.since)
        return f"Broker unreachable for {since}, retrying: {history.outage.why}"

    def _known(self, history: FleetHistory) -> dict[str, Any]:
        now = history.now
        assert now is not None
        rates, stats = rates_of(history), now.stats
        bottleneck = find_bottleneck(now, rates, self._limits)
        workers = _workers(now)
        return {
            "now": now,
            "stats": stats,
            "rates": rates,
            "outcome_rates": outcome_rates(history),
            "eta_s": eta_s(history, rates),
            "bottleneck": bottleneck,
            "stages": _stages(now, rates, bottleneck.stage, urgent=bottleneck.urgent),
            "warnings": _warnings(stats),
            "collections": _collections(history),
            "loops": loops_seen(stats.loops),
            "workers": workers[:WORKERS_SHOWN],
            "workers_left_out": len(workers[WORKERS_SHOWN:]),
            "errors": _errors(stats),
        }


async def _is_set(event: asyncio.Event, timeout_s: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except TimeoutError:
        return False
    return True


def _stages(now: Snapshot, rates: Rates, marked: str, *, urgent: bool) -> list[Stage]:
    return [
        Stage(it.name, it.shown(" / "), it.below, marked=it.name == marked, urgent=urgent)
        for it in stages_of(now, rates)
    ]


def _warnings(stats: Stats) -> list[str]:
    """Tasks of removed agents, configs that differ between workers, and spent budgets."""
    spent = [
        f"the budget of {spending.kind} {spending.name} is spent"
        for spending in stats.spendings
        if spending.is_spent
    ]
    return [one_line(each, _REASON_CHARS) for each in (*misfits_of_fleet(stats), *spent)]


def _collections(history: FleetHistory) -> list[tuple[Row, list[Row], int]]:
    """Each collection with its first agents, busy ones first, and how many are not shown."""
    assert history.now is not None
    names = {depth.collection or NO_COLLECTION for depth in history.now.stats.queues}
    found: list[tuple[Row, list[Row]]] = []
    for row in rows_of(history, expanded=names):
        if row.expanded is None:
            found[-1][1].append(row)
        else:
            found.append((row, []))
    return [
        (row, sorted(agents, key=_idle)[:AGENTS_SHOWN], len(agents[AGENTS_SHOWN:]))
        for row, agents in found
    ]


def _idle(row: Row) -> bool:
    return not (row.running or row.waiting or row.delayed)


def _workers(now: Snapshot) -> list[tuple[WorkerSeen, Heartbeat]]:
    """The workers, without commands, which have no slots; those with a sink outage first."""
    pairs = zip(now.stats.workers, now.heartbeats, strict=True)
    return sorted(
        (pair for pair in pairs if pair[0].slots),
        key=lambda pair: (pair[1].sink_down_s is None, pair[0].name),
    )


def _errors(stats: Stats) -> list[Any]:
    """The last error of each agent, newest first."""
    found = [depth for depth in stats.queues if depth.tally.error_s is not None]
    return sorted(found, key=lambda depth: depth.tally.error_s or 0.0)[:ERRORS_SHOWN]
