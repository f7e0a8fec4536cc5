"""Pause: stops workers from claiming tasks of agents and collections."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agentpipe.brokers.capabilities import KeepsBudgets, PausesQueues, require
from agentpipe.core.budgets import NO_BUDGET, Spending
from agentpipe.core.did_you_mean import did_you_mean
from agentpipe.errors import ConfigError
from agentpipe.operations.names import refuse_unknown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.brokers.base import Store
    from agentpipe.core.budgets import Budget


@dataclass(frozen=True, slots=True)
class Paused:
    """What was paused or resumed.

    Attributes:
        agents: All agents of the targets, by queue.
        still_paused: Those of them that are paused now.
        spent: The spent budgets that keep workers away from them.
        made: Budgets of collections that had none before.
    """

    agents: tuple[str, ...]
    still_paused: tuple[str, ...]
    spent: tuple[Spending, ...] = ()
    made: tuple[Spending, ...] = ()

    @property
    def free(self) -> int:
        """How many of the agents workers can serve."""
        return len(self.agents) - len(self.still_paused)


def resume(store: Store, targets: Sequence[str], budget: Budget) -> Paused:
    """Resume the targets, and add the caps of ``budget`` to each collection's own caps.

    Raises:
        ConfigError: As ``pause``; or a cap is already spent, or a target is not a collection.
    """
    made: list[Spending] = []
    if budget:
        known = {depth.collection for depth in store.stats().queues}
        alone = [target for target in targets if target not in known]
        if alone:
            raise ConfigError(
                f"only a collection or a run has a budget: {', '.join(alone)} is neither"
            )
        for target in targets:
            none = Spending("collection", target, NO_BUDGET)
            before, after = _raise(store, none, budget)
            made += [] if before.cap else [after]
    return replace(pause(store, targets, paused=False), made=tuple(made))


def resume_run(store: Store, run: str, budget: Budget) -> Spending:
    """Add these caps to a run that already has a budget.

    Raises:
        ConfigError: It has none, the new cap is already spent, or this broker keeps no budgets.
    """
    budgets = require(store, KeepsBudgets, "keep budgets").spendings()
    found = {it.name: it for it in budgets if it.kind == "run"}
    if run not in found:
        hint = did_you_mean(run, sorted(found), "send it with --budget-usd to give it one")
        raise ConfigError(f"no run {run!r} with a budget on this broker: {hint}")
    return _raise(store, found[run], budget)[1]


def _raise(store: Store, without: Spending, budget: Budget) -> tuple[Spending, Spending]:
    """Add these caps to a budget; ``without`` is its spending if the store has none.

    Returns the spending before and after.
    """
    budgets = require(store, KeepsBudgets, "keep budgets")
    holder = without.kind, without.name
    known = [it for it in budgets.spendings() if (it.kind, it.name) == holder]
    before = known[0] if known else without
    after = replace(before, cap=before.cap.with_caps_of(budget))
    if after.is_spent:
        what = f"{after.reason} already: give it a higher cap"
        raise ConfigError(f"{' '.join(holder)}: {what}")
    budgets.set_budget(*holder, after.cap)
    return before, after


def pause(store: Store, targets: Sequence[str], *, paused: bool) -> Paused:
    """Pause or resume agents and whole collections.

    Raises:
        ConfigError: A name is unknown, or this broker cannot pause.
    """
    pauses = require(store, PausesQueues, "pause agents")
    depths = store.stats().queues
    collections = {depth.collection for depth in depths if depth.collection}
    queues = {depth.queue for depth in depths}
    refuse_unknown("collection or agent", targets, collections | queues)
    whole = [target for target in targets if target in collections]
    single = [target for target in targets if target in queues and target not in collections]
    pauses.pause(queues=single, collections=whole, paused=paused)
    stats = store.stats()
    now = [it for it in stats.queues if it.queue in single or it.collection in whole]
    left = tuple(depth.queue for depth in now if depth.paused)
    spent = {depth.collection for depth in now if depth.budget_spent}
    mine = tuple(it for it in stats.spendings if it.kind == "collection" and it.name in spent)
    return Paused(tuple(depth.queue for depth in now), left, mine)
