"""AgentStreamingDataset: the stream as a PyTorch dataset; the only module that imports torch.

It opens its reader in the process that iterates, because connections cannot be pickled or shared
across a fork.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe.core.arguments import check_function, whole
from agentpipe.core.distribution import pip_install
from agentpipe.errors import AgentpipeError, ConfigError, MissingExtra
from agentpipe.settings import Settings
from agentpipe.training.group_items import GroupItems
from agentpipe.training.group_stream import check_choice
from agentpipe.training.loader_worker import TrainerWatch
from agentpipe.training.reading import Reading
from agentpipe.training.result_items import ResultItems
from agentpipe.training.shard import Shard, shard_in

try:
    import torch.distributed
    from torch.utils.data import IterableDataset, get_worker_info
except ImportError as error:
    raise MissingExtra(f"agentpipe.dataset needs PyTorch: {pip_install('torch')}") from error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from agentpipe.sinks.base import Start
    from agentpipe.training.reading import Items, State
    from agentpipe.training.result_items import Share
    from agentpipe.training.rollout_group import RolloutGroup


class AgentStreamingDataset(IterableDataset):  # type: ignore[misc]  # without PyTorch there are no types
    """Results as dicts, each task once across all ranks and DataLoader workers.

    A result counts as used, and is committed, when the loop asks for the next one; the group's
    next reader continues after it. Once ``state_dict`` has been called, only results in all of the
    last ``keep_states`` states are committed: after a kill any of these states can be loaded, and
    exactly the results used after it come again.

    With ``rollouts`` an item is a row of token ids as a dict, with the attributes of
    ``agentpipe.rollouts.Sample``; a result has one row per segment. With ``groups`` an item is a
    complete ``RolloutGroup``, and each group comes once. With both, an item is the list of a
    group's rows, each with its GRPO ``advantage``.

    Each rank and DataLoader worker is a reader. With ``share="group"`` all readers share one group
    of the sink, and their number can change; load the states of all of them into each. With
    ``share="hash"`` each reads the whole stream in its own group and keeps its part by
    ``group_id``, or by ``task_id`` if there is none: samples of a prompt stay together and each
    reader loads only its own state, but the number of readers must not change.

    Args:
        config_path: The collection file, for MCP-Universe's signature; it is not read.
        settings: Where the stream is; the environment's by default.
        group: The reading group; use a new name for each experiment.
        start: Where a new group starts.
        limit: Results, or groups, per epoch over all readers, shared evenly.
        timeout_s: An epoch ends after this many seconds without a record; None waits forever.
        transform: Applied to each item, in the reading process.
        share: "group" or "hash", as above. Default: "group"; with ``groups`` only "hash" works.
        lag: Number of used results, or groups, to hold uncommitted until a state is requested: what
            a DataLoader may have prefetched, ``batch_size * prefetch_factor``.
        keep_states: Number of states that can still be loaded.
        groups: Yield complete groups, as above.
        rollouts: Yield rows of token ids, as above.
        keep: Which groups to yield; default: those whose rewards differ.
        min_good: Also yield short or cancelled groups with at least this many good members.
        policy: The policy that the groups follow, see ``GroupStream``.
        max_staleness: How many policy versions a group may be behind; default: the policy's.
    """

    def __init__(
        self,
        config_path: str | Path | None = None,
        *,
        settings: Settings | None = None,
        group: str = "trainer",
        start: Start = "beginning",
        limit: int | None = None,
        timeout_s: float | None = None,
        transform: Callable[[Any], Any] | None = None,
        share: Share | None = None,
        lag: int = 0,
        keep_states: int = 8,
        groups: bool = False,
        rollouts: bool = False,
        keep: Callable[[RolloutGroup], bool] | None = None,
        min_good: int | None = None,
        policy: str | None = None,
        max_staleness: int | None = None,
    ) -> None:
        super().__init__()
        reading = Reading(
            _with_file(Settings.given(settings), config_path),
            group,
            start,
            timeout_s,
            rollouts,
            lag=lag,
            keep_states=keep_states,
        )
        self.settings, self.group = reading.settings, group
        self.limit = None if limit is None else whole("limit", limit, 1)
        self.transform = transform
        if transform is not None:
            check_function("transform", transform)
        choice = {"keep": keep, "min_good": min_good, "policy": policy}
        choice["max_staleness"] = max_staleness
        self._items = _items_of(reading, share, choice, groups=groups)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over one epoch.

        Raises:
            ConfigError: The sink's URL is invalid, or the policy does not exist.
            Unreachable: The server does not answer.
        """
        if get_worker_info() is not None:
            TrainerWatch.begin()
        number, readers = shard = _shard()
        limit = self.limit and self.limit // readers + (number < self.limit % readers)
        if limit == 0:
            return
        for name, item in self._items.epoch(shard, limit):
            yield self._transformed(name, item)

    def state_dict(self) -> State:
        """What was used but not committed; small, and JSON."""
        return self._items.state_dict(_shard())

    def load_state_dict(self, *states: Mapping[str, Any]) -> None:
        """Continue after a state, or after the states of all readers; call before iterating.

        Raises:
            ConfigError: A state is not of this dataset's group.
        """
        self._items.load_state_dict(_shard(), states)

    def _transformed(self, name: str, item: Any) -> Any:
        if self.transform is None:
            return item
        try:
            return self.transform(item)
        except Exception as error:
            raise AgentpipeError(f"transform failed on {name}: {error}") from error


def _shard() -> Shard:
    """This reader's number, and the number of readers."""
    rank, ranks = _rank()
    worker = get_worker_info()
    if worker is None:
        return Shard(rank, ranks)
    return Shard(rank * worker.num_workers + worker.id, ranks * worker.num_workers)


def _rank() -> Shard:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return Shard(torch.distributed.get_rank(), torch.distributed.get_world_size())
    return shard_in(os.environ)


def _with_file(settings: Settings, path: str | Path | None) -> Settings:
    return replace(settings, collection_file=Path(path)) if path else settings


def _items_of(
    reading: Reading, share: Share | None, choice: Mapping[str, Any], *, groups: bool
) -> Items:
    """The items of a dataset; ``choice`` says which groups."""
    if share not in ("group", "hash", None):
        raise ConfigError(f"share must be 'group' or 'hash', not {share!r:.40}")
    given = {name: value for name, value in choice.items() if value is not None}
    if not groups:
        if given:
            raise ConfigError(f"{next(iter(given))} is of groups: it needs groups=True")
        return ResultItems(reading, share or "group")
    if share == "group":
        raise ConfigError("share='group' would give parts of a group to several readers: 'hash'")
    check_choice(given)
    return GroupItems(reading, given)
