"""AgentStreamingDataset: the stream as a PyTorch dataset; the only module that imports torch.

It opens its reader in the process that iterates: connections can neither be pickled nor shared
by a fork.
"""

from __future__ import annotations

import math
import os
import zlib
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from agentpipe.core.distribution import pip_install
from agentpipe.errors import AgentpipeError, ConfigError, MissingExtra
from agentpipe.settings import Settings
from agentpipe.sinks.stream import Stream

try:
    import torch.distributed
    from torch.utils.data import IterableDataset, get_worker_info
except ImportError as error:
    raise MissingExtra(f"agentpipe.dataset needs PyTorch: {pip_install('torch')}") from error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from agentpipe.core.result import Result
    from agentpipe.sinks.base import Start

Share = Literal["group", "hash"]
State = dict[str, Any]


class AgentStreamingDataset(IterableDataset):  # type: ignore[misc]
    """Results as dicts, each task once over all ranks and DataLoader workers.

    A result is used and committed when the loop asks for the next one; the group's next reader
    continues after it. Once ``state_dict`` has been called, only results in all of the last
    ``keep_states`` states are committed: after a kill any of them can be loaded, and exactly what
    was used after it comes again.

    Readers differ by rank and DataLoader worker. With ``share="group"`` they share one group of
    the sink, in any number; load the states of all into each. With ``share="hash"`` each reads the
    whole stream in its own group and keeps its part by ``group_id``, or else ``task_id``: samples
    of a prompt stay together, and each loads only its own state, but their number must not change.

    Args:
        config_path: The collection file, for MCP-Universe's signature; it is not read.
        settings: Where the stream is; the environment's by default.
        group: The reading group; use a new name for each experiment.
        start: Where a new group starts.
        limit: Results in an epoch over all readers, shared evenly.
        timeout_s: An epoch ends after so many seconds without a result; None waits for ever.
        transform: Applied to each dict, in the reading process.
        share: See above.
        lag: Number of used results to hold uncommitted until a state is requested: what a
            DataLoader may have prefetched, ``batch_size * prefetch_factor``.
        keep_states: Number of states that can still be loaded.
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
        transform: Callable[[dict[str, Any]], Any] | None = None,
        share: Share = "group",
        lag: int = 0,
        keep_states: int = 8,
    ) -> None:
        super().__init__()
        _check_arguments(limit, lag, keep_states, share)
        settings = settings or Settings.from_env(os.environ)
        self.settings = replace(
            settings, collection_file=Path(config_path) if config_path else settings.collection_file
        )
        self.group, self.start, self.limit, self.timeout_s = group, start, limit, timeout_s
        self.transform, self.share = transform, share
        self.lag, self.keep_states = lag, keep_states
        self._known: list[str] = []
        self._state_sizes: deque[int] = deque()
        self._has_states = False
        self._stream: Stream | None = None
        self._current: str | None = None

    def __iter__(self) -> Iterator[Any]:
        """One epoch.

        Raises:
            ConfigError: The sink's URL is wrong.
            Unreachable: The server does not answer.
        """
        shard, shards = _shard()
        limit = self.limit and self.limit // shards + (shard < self.limit % shards)
        if limit == 0:
            return
        with self._opened(shard, shards) as stream:
            self._stream = stream
            yield from self._items(stream, shard, shards, limit)
            if self._has_states:
                self._known = stream.held  # Closing returns them to the group, and they come again.
            else:
                stream.release(len(stream.held))
            self._stream = None

    def state_dict(self) -> State:
        """Task ids used and not committed; small, and JSON."""
        used = self._known
        if self._stream is not None:
            self._stream.keep = math.inf
            used = self._stream.held + ([self._current] if self._current else [])
            self._state_sizes.append(len(used))
            if len(self._state_sizes) > self.keep_states:
                self._release(self._state_sizes.popleft())
        self._has_states = True
        return {"version": 1, "group": self.group, "used": list(used)}

    def load_state_dict(self, *states: Mapping[str, Any]) -> None:
        """Continue after a state, or after those of all readers; call before iterating.

        Raises:
            ConfigError: One is not a state of this dataset's group.
        """
        for state in states:
            if state.get("version") != 1 or state.get("group") != self.group:
                raise ConfigError(f"not a state of the group {self.group!r}: {state!r:.80}")
        self._known = [task_id for state in states for task_id in state["used"]]
        self._has_states = True

    def _opened(self, shard: int, shards: int) -> Stream:
        group = f"{self.group}-{shard}-of-{shards}" if self.share == "hash" else self.group
        self._state_sizes.clear()
        return Stream.open(
            self.settings,
            group=group,
            start=self.start,
            timeout_s=self.timeout_s,
            keep=math.inf if self._has_states else self.lag,
            known=self._known,
        )

    def _items(self, stream: Stream, shard: int, shards: int, limit: int | None) -> Iterator[Any]:
        given = 0
        for result in stream:
            if self.share == "hash" and _shard_of(result, shards) != shard:
                continue
            given += 1
            if given == limit:
                stream.stop()
            self._current = result.task_id
            yield self._transformed(result)
            self._current = None

    def _transformed(self, result: Result) -> Any:
        item = result.to_dict()
        if self.transform is None:
            return item
        try:
            return self.transform(item)
        except Exception as error:
            raise AgentpipeError(f"transform failed on task {result.task_id}: {error}") from error

    def _release(self, number: int) -> None:
        assert self._stream is not None
        self._stream.release(number)
        self._state_sizes = deque(max(0, covered - number) for covered in self._state_sizes)


def _shard() -> tuple[int, int]:
    """This reader's number, and the number of readers."""
    rank, ranks = _rank()
    worker = get_worker_info()
    if worker is None:
        return rank, ranks
    return rank * worker.num_workers + worker.id, ranks * worker.num_workers


def _rank() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return int(os.environ.get("RANK") or 0), int(os.environ.get("WORLD_SIZE") or 1)


def _shard_of(result: Result, shards: int) -> int:
    return zlib.crc32((result.group_id or result.task_id).encode()) % shards


def _check_arguments(limit: int | None, lag: int, keep_states: int, share: str) -> None:
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be at least 1, not {limit}")
    if lag < 0 or keep_states < 1:
        raise ConfigError("lag must be at least 0, and keep_states at least 1")
    if share not in ("group", "hash"):
        raise ConfigError(f"share must be 'group' or 'hash', not {share!r}")
