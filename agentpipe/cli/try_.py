"""``agentpipe try``: run one task in this process, without broker and sink, and show its steps."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, NoReturn, TextIO

import orjson

from agentpipe.cli.exit_codes import FAILED, INTERRUPTED, OK
from agentpipe.cli.guard import unguarded
from agentpipe.cli.opening import collections_of, named_collection, settings_of
from agentpipe.cli.options import add_collection_file, add_json
from agentpipe.cli.output import say
from agentpipe.core import logs
from agentpipe.core.text import printable_json
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from agentpipe.config.collection import AgentSpec, Collection
    from agentpipe.core.result import Result
    from agentpipe.core.task import Task
    from agentpipe.worker.trial import Trial


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("collection", metavar="COLLECTION", help="name of a collection")
    parser.add_argument("question", metavar="QUESTION", nargs="?", help="the question")
    parser.add_argument(
        "--task", metavar="FILE:LINE", help="the task in this line of a file, with its evaluators"
    )
    parser.add_argument(
        "--context",
        metavar="N",
        type=int,
        default=0,
        help="index of the collection's context, from 0 (default: 0)",
    )
    parser.add_argument("--full", action="store_true", help="do not shorten texts")
    add_collection_file(parser)
    add_json(parser, "print only the Result, as JSON")
    parser.set_defaults(broker=None, sink=None)


def run(args: argparse.Namespace) -> int:
    """Run the task, and print its steps and its result."""
    from agentpipe.core.process_privacy import harden, scrub
    from agentpipe.worker.trial import Trial

    if (args.question is None) == (args.task is None):
        raise ConfigError("give one QUESTION, or --task FILE:LINE")
    settings = settings_of(args)
    collection = named_collection(collections_of(args, settings), args, settings)
    agent, task = _agent(args, collection), _task(args, collection)
    screen = unguarded(sys.stdout)
    harden()
    scrub()
    if args.json:
        sys.stdout = sys.stderr  # Keep the agent's own output out of the JSON.
    trial = Trial(collection, agent, settings.grace_s)
    logs.configure(settings.log_level, settings.log_format)
    code = _watched(args, trial, task, screen)
    if trial.is_stuck:
        _leave(code, screen)
    return code


def _watched(args: argparse.Namespace, trial: Trial, task: Task, screen: TextIO) -> int:
    """Run the task, and stop what it started even on Ctrl-C."""
    try:
        result = _printed(args, trial, task, screen)
    except KeyboardInterrupt:
        say("interrupted: ending the run")
        return INTERRUPTED
    finally:
        trial.close()
    return OK if result.outcome == "ok" else FAILED


def _printed(args: argparse.Namespace, trial: Trial, task: Task, screen: TextIO) -> Result:
    if args.json:
        result = _run_to_its_end(trial, task)
        screen.buffer.write(printable_json(orjson.dumps(result.to_dict())) + b"\n")
        screen.flush()
        return result
    return _drawn(args, trial, task, screen)


def _run_to_its_end(trial: Trial, task: Task) -> Result:
    for _ in trial.run(task):
        pass
    assert trial.result is not None
    return trial.result


def _drawn(args: argparse.Namespace, trial: Trial, task: Task, screen: TextIO) -> Result:
    """Print each span as it ends, then what ``show`` prints besides the trace."""
    from agentpipe.cli.show import print_page
    from agentpipe.core.masking import masked
    from agentpipe.core.transcript import Conversations
    from agentpipe.show.card import draw_end, draw_facts, draw_node
    from agentpipe.show.page import Page
    from agentpipe.show.timeline import begun_at, node_of

    page = Page(shutil.get_terminal_size((100, 24)).columns, full=args.full)
    page.line(("Question", "bold"))
    with page.margin("  "):
        page.block(masked(task.question), most=20)
    page.gap()
    print_page(page, screen)
    conversations, begun = Conversations(), 0.0
    for span in trial.run(task):
        begun = begun or begun_at(span)
        draw_node(page, node_of(span, 0, begun), conversations, 0.0)
        print_page(page, screen)
    assert trial.result is not None
    page.gap()
    draw_facts(page, trial.result)
    draw_end(page, trial.result)
    print_page(page, screen)
    return trial.result


def _agent(args: argparse.Namespace, collection: Collection) -> AgentSpec:
    """The first agent of the context ``--context``."""
    for agent in collection.agents:
        if (agent.context_index or 0) == args.context:
            return agent
    number = len({agent.context_index for agent in collection.agents})
    known = "only 0" if number == 1 else f"0 to {number - 1}"
    raise ConfigError(f"--context {args.context}: collection {collection.name!r} has {known}")


def _task(args: argparse.Namespace, collection: Collection) -> Task:
    from agentpipe.config.questions import rules_of

    if args.task is not None:
        from agentpipe.operations.one_task import task_at

        return task_at(args.task, rules_of(collection))
    from agentpipe.sending.admission import admit

    return admit(args.question, rules_of(collection)).task


def _leave(code: int, screen: TextIO) -> NoReturn:
    """End the process at once: a thread still runs the agent's code and cannot be stopped."""
    screen.flush()
    sys.stderr.flush()
    os._exit(code)
