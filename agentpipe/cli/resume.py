"""``agentpipe resume``: resume paused agents and collections, or raise a spent budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.cli import pause
from agentpipe.cli.budget_options import add_budget, budget_of
from agentpipe.cli.embedded_files import require_tasks
from agentpipe.cli.exit_codes import OK
from agentpipe.cli.opening import opened_store, settings_of
from agentpipe.cli.options import add_run
from agentpipe.cli.output import print_either, say_where
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    import argparse

__all__ = ["add", "run"]


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    pause.add(parser, nargs="*")
    add_run(parser, "a run, instead of TARGETs: needs a budget")
    add_budget(parser, "each of these collections, or the run,")


def run(args: argparse.Namespace) -> int:
    """Resume the targets; an agent stays paused while its collection is paused."""
    if bool(args.targets) == (args.run_name is not None):
        raise ConfigError("give TARGETs to resume, or --run NAME with a budget")
    return pause.change(args, paused=False) if args.targets else _resume_run(args)


def _resume_run(args: argparse.Namespace) -> int:
    from agentpipe.operations.pause import resume_run
    from agentpipe.operations.stats import budget_as_dict

    budget = budget_of(args)
    if not budget:
        raise ConfigError("a run is resumed with --budget-usd or --budget-tokens")
    settings = settings_of(args)
    require_tasks(args, settings)
    say_where(settings)
    with opened_store(settings) as store:
        spending = resume_run(store, args.run_name, budget)
    text = f"run {args.run_name} goes on: {spending.used} of {spending.cap} spent"
    print_either(args, budget_as_dict(spending), text)
    return OK
