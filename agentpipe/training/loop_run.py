"""LoopRun: what a trainer's loop is called, which collection it sends to, and its run's record."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from agentpipe.config.collection import load
from agentpipe.core.arguments import check_type
from agentpipe.core.rollout import REQUIRE
from agentpipe.core.run_names import RUN_NAME, is_run_name, prefix_of
from agentpipe.errors import ConfigError
from agentpipe.operations.provenance import record_of
from agentpipe.training.loop_report import LoopFacts

if TYPE_CHECKING:
    from agentpipe.config.collection import Collection
    from agentpipe.sending.dispatcher import Dispatcher
    from agentpipe.settings import Settings
    from agentpipe.training.shard import Shard


def refuse_name(name: str) -> None:
    """Refuse an invalid experiment name; group ids begin with it, so run-name rules apply.

    Raises:
        ConfigError: The name is invalid; the message says what is allowed.
    """
    if not is_run_name(name):
        raise ConfigError(f"invalid name {name!r:.80}: use {RUN_NAME.partition(': ')[2]}")


def only_collection(path: str | os.PathLike[str], settings: Settings) -> Collection:
    """The single collection in the file, with the defaults of ``settings``.

    Raises:
        ConfigError: The file is invalid, or does not hold exactly one collection.
    """
    check_type("collection", path, (str, os.PathLike), "the path of a collection file")
    collections = load(Path(path), settings.max_queue_size)
    if len(collections) != 1:
        raise ConfigError(f"{path}: expected one collection, it has {len(collections)}")
    return collections[0]


def followed_collection(path: str | os.PathLike[str], settings: Settings) -> Collection:
    """The single collection in the file, which must follow a policy and record token ids.

    Raises:
        ConfigError: The file is invalid or does not hold exactly one collection, or the
            collection follows no policy or does not require token ids.
    """
    only = only_collection(path, settings)
    if only.policy is None or only.record_tokens != REQUIRE:
        text = "add `policy: NAME`, and `record: {tokens: require}`"
        raise ConfigError(f"{path}: a trainer needs versions and token ids: {text}")
    return only


@dataclass(frozen=True, slots=True)
class LoopRun:
    """One trainer's loop over prompts for the agents of a collection.

    Attributes:
        name: Of the loop's lease and its reading group; each trainer of an experiment has its own.
        facts: What others who look at the loop learn of it.
    """

    name: str
    collection: Collection
    facts: LoopFacts

    @classmethod
    def of(
        cls, collection: Collection, name: str, *, shard: Shard, policy: str | None, batch: int
    ) -> Self:
        """The loop of a trainer.

        Args:
            collection: Its agents run the loop's tasks.
            name: The experiment's name, which the loops of all trainers share; if empty, the
                collection's.
            shard: The trainer's part of the prompts.
            policy: The policy that its groups follow; None for the collection's.
            batch: How many groups a step has.

        Raises:
            ConfigError: The name is invalid.
        """
        run = name or collection.name
        refuse_name(run)
        prefix = prefix_of(run) if shard.readers == 1 else f"{prefix_of(run)}{shard}/"
        follows = policy or (collection.policy.name if collection.policy else None)
        facts = LoopFacts(run, prefix, collection.name, follows, batch)
        return cls(shard.named(run), collection, facts)


def begin_run(dispatcher: Dispatcher, run: LoopRun) -> None:
    """Register the loop's run, so that its tasks count for it; a later start finds its record."""
    loop = asdict(run.facts)
    record = record_of(run.collection, run.facts.run, sys.argv, None, loop=loop)
    dispatcher.begin_run(run.facts.run, record)
