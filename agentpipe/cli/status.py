"""``agentpipe status``: show task counts, agents and workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe.cli.embedded_files import require_tasks
from agentpipe.cli.exit_codes import OK
from agentpipe.cli.opening import settings_of, store_to_read
from agentpipe.cli.options import add_common, add_run
from agentpipe.cli.output import print_json, print_text, say_where
from agentpipe.cli.runs import show_one
from agentpipe.core.budgets import budget_line
from agentpipe.core.text import duration
from agentpipe.operations.misfits import misfits_of_fleet
from agentpipe.operations.stats import as_dict

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from agentpipe.brokers.statistics import Stats
    from agentpipe.settings import OutboxLimits

STAGES = ("accepted", "waiting", "delayed", "running", "outbox", "delivered")


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_run(parser, "only this run: how many tasks it has, and what became of them")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Print one snapshot."""
    settings = settings_of(args)
    require_tasks(args, settings)
    if args.run_name is not None:
        return show_one(args, settings)
    with store_to_read(settings) as store:
        stats = store.stats()
    status = as_dict(stats)
    if args.json:
        print_json(status)
        return OK
    say_where(settings)
    warnings = (
        *_outbox_warning(status, settings.outbox_limits),
        *_undeliverable(status),
        *_pauses(status),
        *_budgets(stats),
        *_policies(stats),
        *_loops(stats),
        *misfits_of_fleet(stats),
    )
    for line in (*_lines(status), *warnings):
        print_text(line, head=len(line))
    return OK


def _outbox_warning(status: dict[str, Any], limits: OutboxLimits) -> Iterator[str]:
    """Warn of a full outbox, by this environment's limits; the workers' can differ."""
    records, size = status["outbox"] or 0, status["outbox_bytes"] or 0
    if limits.reached_by(records, size):
        yield (
            f"outbox full ({records:,} of {limits.records:,} records, {size:,} of "
            f"{limits.size_bytes:,} bytes): workers claim nothing until the sink accepts results"
        )


def _undeliverable(status: dict[str, Any]) -> Iterator[str]:
    if number := status["undeliverable"]:
        yield (
            f"undeliverable {number:,}: the sink refuses these results; "
            "see: agentpipe dead list --undeliverable"
        )


def _pauses(status: dict[str, Any]) -> Iterator[str]:
    """Why collections are paused, and what to do; a manual pause has no reason."""
    from agentpipe.brokers.breaker import remedy

    reasons = {
        agent["collection"] or agent["agent"]: agent["pause_reason"]
        for agent in status["agents"]
        if agent["pause_reason"] and not agent["budget_spent"]
    }
    for name, reason in reasons.items():
        yield f"{name} is paused: {reason}; {remedy(name)}"


def _budgets(stats: Stats) -> Iterator[str]:
    """How much of each budget is spent, and what to do once all of it is."""
    for spending in stats.spendings:
        if spending.cap:
            yield f"{spending.kind} {spending.name}: {budget_line(spending)}"


def _policies(stats: Stats) -> Iterator[str]:
    from agentpipe.operations.policies import flights_of, policy_lines

    for state in stats.policies:
        lines = policy_lines(state, flights_of(stats, state))
        yield from (line for line in lines if "://" not in line)


def _loops(stats: Stats) -> Iterator[str]:
    from agentpipe.operations.loops import loop_lines, loops_seen

    for loop in loops_seen(stats.loops):
        yield from loop_lines(loop)


def _lines(status: dict[str, Any]) -> Iterator[str]:
    yield "  ".join(f"{stage} {_number(status[stage])}" for stage in STAGES)
    outcomes = [f"{name} {number}" for name, number in status["outcomes"].items()]
    yield "  ".join([*outcomes, f"dead {_number(status['dead'])}"])
    if any((status["groups"] or {}).values()):
        yield "  ".join(["groups", *(f"{name} {it:,}" for name, it in status["groups"].items())])
    for agent in status["agents"]:
        yield (
            f"{agent['agent']:<32} waiting {_number(agent['waiting'])}/{agent['limit']}"
            f"  delayed {_number(agent['delayed'])}  running {_number(agent['running'])}"
            f"{_condition(agent)}"
        )
    for worker in status["workers"]:
        yield (
            f"worker {worker['worker']}  running {worker['running']}/{worker['slots']}"
            f"  heard {duration(worker['seen_s'])} ago{_draining(worker)}{_children(worker)}"
        )


def _draining(worker: dict[str, Any]) -> str:
    return "  draining" if worker["draining"] else ""


def _children(worker: dict[str, Any]) -> str:
    servers, size = worker["servers"], worker["children_bytes"]
    counted = f"  MCP servers {servers}" if servers else ""
    return counted + (f"  children {size / 1024**2:,.0f} MiB" if size else "")


def _condition(agent: dict[str, Any]) -> str:
    cooldown = f"  cooldown {duration(agent['held_s'])}" if agent["held_s"] else ""
    removed = "  removed" if agent["removed"] else ""
    return cooldown + ("  paused" if agent["paused"] else "") + removed


def _number(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"
