"""``agentpipe status``: the ledger, each agent, the workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe.cli import OK
from agentpipe.cli.common import (
    add_common,
    opened_store,
    print_json,
    print_text,
    say_where,
    settings_of,
)
from agentpipe.core.text import duration
from agentpipe.operations.stats import as_dict

if TYPE_CHECKING:
    import argparse

    from agentpipe.settings import Settings

STAGES = ("accepted", "waiting", "delayed", "running", "outbox", "delivered")


def add(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Print one snapshot."""
    settings = settings_of(args)
    with opened_store(settings) as store:
        status = as_dict(store.stats())
    if args.json:
        print_json(status)
        return OK
    say_where(settings)
    for line in _lines(status):
        print_text(line)
    if (held_up := _why_held_up(status, settings)) is not None:
        print_text(held_up)
    return OK


def _why_held_up(status: dict[str, Any], settings: Settings) -> str | None:
    """Whether workers wait for the sink, as far as it has been told here where its mark is."""
    records, size = status["outbox"] or 0, status["outbox_bytes"] or 0
    mark, bytes_mark = settings.outbox_high_water, settings.outbox_high_water_bytes
    if records < mark and size < bytes_mark:
        return None
    return (
        f"the outbox is at its mark ({records:,} of {mark:,} records, {size:,} of {bytes_mark:,} "
        "bytes): workers claim nothing until the sink takes results"
    )


def _lines(status: dict[str, Any]) -> list[str]:
    lines = ["  ".join(f"{stage} {_shown(status[stage])}" for stage in STAGES)]
    outcomes = [f"{name} {number}" for name, number in status["outcomes"].items()]
    lines.append("  ".join([*outcomes, f"dead {_shown(status['dead'])}"]))
    lines += [
        f"{agent['agent']:<32} waiting {_shown(agent['waiting'])}/{agent['limit']}"
        f"  delayed {_shown(agent['delayed'])}  running {_shown(agent['running'])}"
        f"{_hold(agent)}{_pause(agent)}"
        for agent in status["agents"]
    ]
    lines += [
        f"worker {worker['worker']}  running {worker['running']}/{worker['slots']}"
        f"  heard {duration(worker['seen_s'])} ago"
        for worker in status["workers"]
    ]
    return lines


def _hold(agent: dict[str, Any]) -> str:
    """Only where there is one."""
    return f"  held {duration(agent['held_s'])}" if agent["held_s"] else ""


def _pause(agent: dict[str, Any]) -> str:
    return "  paused" if agent["paused"] else ""


def _shown(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"
