"""``agentpipe dead``: the tasks that were given up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.cli import FAILED, FULL, OK, PARTLY
from agentpipe.cli.common import (
    add_common,
    collections_of,
    one_line,
    opened_store,
    print_json,
    print_text,
    say,
    settings_of,
)
from agentpipe.errors import AgentpipeError, ConfigError
from agentpipe.task import utc

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from agentpipe.brokers.store import DeadLetter, Store


def add(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="one line each, oldest first")
    listing.add_argument("--collection", metavar="NAME", help="only this collection's")
    show = actions.add_parser("show", help="all that is known of some")
    replay = actions.add_parser("replay", help="send them again, as new tasks")
    drop = actions.add_parser("drop", help="forget them")
    for action, function in ((listing, _list), (show, _show), (replay, _replay), (drop, _drop)):
        if action is not listing:
            action.add_argument("tasks", metavar="TASK", nargs="+" if action is show else "*")
        if action in (replay, drop):
            action.add_argument("--all", action="store_true", help="every dead letter")
        add_common(action)
        action.set_defaults(action=function)


def run(args: argparse.Namespace) -> int:
    """Do what was asked for."""
    with opened_store(settings_of(args)) as store:
        return int(args.action(args, store))


def _list(args: argparse.Namespace, store: Store) -> int:
    letters = store.dead_letters(args.collection)
    if args.json:
        print_json({"dead": [_summary(letter) for letter in letters], "total": len(letters)})
        return OK
    for letter in letters:
        age_s = time.time() - letter.died_at
        reason = one_line(letter.reason, 100)
        print_text(f"{letter.task_id} {letter.queue} {letter.outcome} {age_s:.0f} s ago: {reason}")
    if not letters:
        say("no dead letters")
    return OK


def _show(args: argparse.Namespace, store: Store) -> int:
    letters = _asked_for(args, store)
    if args.json:
        print_json({"dead": [_whole(letter) for letter in letters]})
        return OK
    for letter in letters:
        for name, value in _whole(letter).items():
            text = value if isinstance(value, str) else orjson.dumps(value).decode()
            print_text(f"{name:<11} {text}")
    return OK


def _replay(args: argparse.Namespace, store: Store) -> int:
    from agentpipe.dispatcher import Dispatcher
    from agentpipe.operations import replay

    letters = _asked_for(args, store)
    dispatcher = Dispatcher(store)
    settings = settings_of(args)
    if args.collection_file or settings.collection_file:
        dispatcher.declare(collections_of(args, settings))
    sent = replay(store, dispatcher, letters)
    replayed = sent.accepted + sent.duplicates
    if args.json:
        print_json({"replayed": replayed, "refused": sent.refused, "task_ids": sent.task_ids})
    else:
        print_text(f"{replayed} replayed, {sent.refused} refused")
    if not sent.refused:
        return OK
    return PARTLY if replayed else FULL


def _drop(args: argparse.Namespace, store: Store) -> int:
    letters = _asked_for(args, store)
    dropped = store.drop_dead([letter.task_id for letter in letters])
    if args.json:
        print_json({"dropped": dropped})
    else:
        print_text(f"{dropped} dropped")
    return OK if dropped == len(letters) else FAILED


def _asked_for(args: argparse.Namespace, store: Store) -> Sequence[DeadLetter]:
    """The letters named, or all with ``--all``; never all by accident.

    Raises:
        ConfigError: Neither or both were given.
        AgentpipeError: One of those named is not there.
    """
    if bool(args.tasks) == getattr(args, "all", False):
        raise ConfigError("name the tasks, or give --all")
    letters = store.dead_letters(task_ids=args.tasks or None)
    missing = sorted(set(args.tasks) - {letter.task_id for letter in letters})
    if missing:
        raise AgentpipeError(f"no dead letter has the id {', '.join(missing)}: see `dead list`")
    return letters


def _summary(letter: DeadLetter) -> dict[str, Any]:
    return {
        "task_id": letter.task_id,
        "agent": letter.queue,
        "collection": letter.collection,
        "outcome": letter.outcome,
        "reason": letter.reason,
        "died_at": utc(letter.died_at),
    }


def _whole(letter: DeadLetter) -> dict[str, Any]:
    return {
        **_summary(letter),
        "task": _readable(letter.payload),
        "result": _readable(letter.result),
    }


def _readable(data: bytes) -> Any:
    """JSON as it is; bytes that are none as text with escapes."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return data[:2_000].decode(errors="backslashreplace")
