"""The options of ``send`` for runs, samples and parts of a file."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from agentpipe.cli.budget_options import add_budget, budget_of
from agentpipe.cli.options import add_run, refuse_below_one
from agentpipe.cli.output import say
from agentpipe.core.run_plan import RunPlan
from agentpipe.errors import ConfigError
from agentpipe.sending.run_tasks import in_run, random_part

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from agentpipe.config.collection import Collection
    from agentpipe.config.task_rules import TaskRules
    from agentpipe.sending.admission import AdmittedTask
    from agentpipe.sending.dispatcher import Dispatcher

MAX_SAMPLES = 10_000


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    part = parser.add_argument_group("parts of the file")
    part.add_argument("--limit", metavar="K", type=int, help="only the first K tasks of the file")
    part.add_argument(
        "--sample-tasks", metavar="K", type=int, help="only a random part of the file, of K tasks"
    )
    part.add_argument(
        "--seed", metavar="S", type=int, help="with --sample-tasks: which part (default: 0)"
    )
    run = parser.add_argument_group("runs")
    add_run(run, "name of the run: ids begin with it, so that the tasks are new in each run")
    add_budget(run, "the run")
    run.add_argument(
        "--samples", metavar="N", type=int, help="with --run: send each task N times, as a group"
    )
    run.add_argument(
        "--same-seed",
        action="store_true",
        help="with --samples or --group: give samples no seed of their own",
    )


def refuse_unpriced_models(args: argparse.Namespace, collection: Collection) -> None:
    """Refuse budgets in USD that would stop nothing, before the broker learns of any.

    Raises:
        ConfigError: The cost of a model is unknown.
    """
    budgets = [each for each in (budget_of(args), collection.budget) if each]
    if budgets:
        from agentpipe.config.agent_config import load_agent_config
        from agentpipe.engines.prices import refuse_unpriced

        for each in budgets:
            refuse_unpriced(load_agent_config(collection.config_file), collection.engine, each)


def set_budget(args: argparse.Namespace, dispatcher: Dispatcher) -> None:
    """Set the run's budget before its first task can be claimed.

    Raises:
        ConfigError: This broker keeps no budgets.
    """
    if budget := budget_of(args):
        dispatcher.set_budget(args.run_name, budget)


def check(args: argparse.Namespace) -> None:
    """Refuse numbers out of range, and options that need another option.

    Raises:
        ConfigError: The message names the option.
    """
    for option, value in (("--samples", args.samples), ("--limit", args.limit)):
        refuse_below_one(option, value)
    refuse_below_one("--sample-tasks", args.sample_tasks)
    if args.samples is not None and args.samples > MAX_SAMPLES:
        raise ConfigError(f"--samples may be at most {MAX_SAMPLES:,}, got {args.samples:,}")
    if args.limit is not None and args.sample_tasks is not None:
        raise ConfigError("give --limit for the first tasks, or --sample-tasks for a random part")
    samples = args.samples or args.group_size
    needs = (
        ("--samples", args.samples, "--run NAME", args.run_name),
        ("--budget-usd", args.budget_usd, "--run NAME", args.run_name),
        ("--budget-tokens", args.budget_tokens, "--run NAME", args.run_name),
        ("--same-seed", args.same_seed or None, "--samples N or --group N", samples),
        ("--seed", args.seed, "--sample-tasks K", args.sample_tasks),
        ("--limit", args.limit, "--file TASKS", args.file),
        ("--sample-tasks", args.sample_tasks, "--file TASKS", args.file),
    )
    for option, given, other, needed in needs:
        if given is not None and needed is None:
            raise ConfigError(f"{option} needs {other}")


def rules_for(args: argparse.Namespace, collection: Collection) -> TaskRules:
    """The collection's rules for tasks, with the run's plan."""
    from agentpipe.config.questions import rules_of

    return replace(rules_of(collection), plan=_plan(args))


def _plan(args: argparse.Namespace) -> RunPlan | None:
    if args.run_name is None:
        return None
    return RunPlan(args.run_name, args.samples or 0, same_seed=args.same_seed)


def chosen(args: argparse.Namespace, tasks: Iterable[AdmittedTask]) -> Iterable[AdmittedTask]:
    """The tasks to send, after ``--limit`` or ``--sample-tasks``, with the run's ids."""
    if args.limit is not None:
        tasks = islice(tasks, min(args.limit, sys.maxsize))
    elif args.sample_tasks is not None:
        tasks = random_part(tasks, args.sample_tasks, args.seed or 0)
    plan = _plan(args)
    return tasks if plan is None else in_run(tasks, plan)


def begin(args: argparse.Namespace, dispatcher: Dispatcher, collection: Collection) -> None:
    """Store the run's provenance at its first send; at later sends, print what differs."""
    if args.run_name is None:
        return
    from agentpipe.operations.provenance import command_line, record_of

    plan = _plan(args)
    if plan is not None and args.group_size is not None:
        plan = replace(plan, samples=args.group_size + args.spares)
    record = record_of(collection, args.run_name, command_line(), args.file, plan)
    kept = dispatcher.begin_run(args.run_name, record)
    if kept is None:
        say("this broker keeps no runs: only ids and results name the run")
    elif kept != record:
        from agentpipe.operations.run_changes import differences
        from agentpipe.operations.runs import parsed_record

        say(*differences(args.run_name, parsed_record(kept), parsed_record(record)))
