"""The run of a loop: its collection, its name and record, and the check of a saved state."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe.config.collection import load
from agentpipe.core.rollout import REQUIRE
from agentpipe.core.run_names import RUN_NAME, is_run_name, prefix_of
from agentpipe.errors import ConfigError
from agentpipe.operations.provenance import record_of
from agentpipe.training.loop_report import LoopFacts

if TYPE_CHECKING:
    import os

    from agentpipe.config.collection import Collection
    from agentpipe.sending.dispatcher import Dispatcher
    from agentpipe.training.shard import Shard


def refuse_name(name: str) -> None:
    """Refuse an invalid experiment name; group ids begin with it, so run-name rules apply.

    Raises:
        ConfigError: The name is invalid; the message says what is allowed.
    """
    if not is_run_name(name):
        raise ConfigError(f"invalid name {name!r:.80}: use {RUN_NAME.partition(': ')[2]}")


def only_collection(path: str | os.PathLike[str]) -> Collection:
    """The single collection in the file.

    Raises:
        ConfigError: The file is invalid, or does not hold exactly one collection.
    """
    collections = load(Path(path))
    if len(collections) != 1:
        raise ConfigError(f"{path}: expected one collection, it has {len(collections)}")
    return collections[0]


def followed_collection(path: str | os.PathLike[str]) -> Collection:
    """The single collection in the file, which must follow a policy and record token ids.

    Raises:
        ConfigError: The file is invalid or does not hold exactly one collection, or the
            collection follows no policy or does not require token ids.
    """
    only = only_collection(path)
    if only.policy is None or only.record_tokens != REQUIRE:
        text = "add `policy: NAME`, and `record: {tokens: require}`"
        raise ConfigError(f"{path}: a trainer needs versions and token ids: {text}")
    return only


def facts_of(
    collection: Collection, name: str, shard: Shard, policy: str | None, batch: int
) -> LoopFacts:
    """What a trainer's loop is, for its run and for others who look at it.

    Args:
        collection: Its agents run the loop's tasks.
        name: The experiment's name, which the loops of all trainers share.
        shard: The trainer's part of the prompts.
        policy: The policy that its groups follow; None for the collection's.
        batch: How many groups a step has.

    Raises:
        ConfigError: The name is invalid.
    """
    refuse_name(name)
    prefix = prefix_of(name) if shard.readers == 1 else f"{prefix_of(name)}{shard}/"
    follows = policy or (collection.policy.name if collection.policy else None)
    return LoopFacts(name, prefix, collection.name, follows, batch)


def begin_run(dispatcher: Dispatcher, collection: Collection, facts: LoopFacts) -> None:
    """Register the loop's run, so that its tasks count for it; a later start finds its record."""
    loop = asdict(facts)
    record = record_of(collection, facts.run, sys.argv, None, loop=loop)
    dispatcher.begin_run(facts.run, record)


def is_state(found: Any) -> bool:
    """Whether it was returned by ``Rollouts.state_dict`` of this or an earlier version."""
    needs = ("name", "groups", "sent", "step", "over", "policy_version")
    return (
        isinstance(found, Mapping)
        and found.get("version") == 1
        and all(name in found for name in needs)
    )
