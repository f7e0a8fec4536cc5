"""Reading: what the readers of a trainer's dataset have in common."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from types import NoneType
from typing import TYPE_CHECKING, Any, Protocol

from agentpipe.core.arguments import check_seconds, check_type, whole
from agentpipe.rollouts import samples
from agentpipe.sinks.base import check_group, check_start

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agentpipe.core.result import Result
    from agentpipe.settings import Settings
    from agentpipe.sinks.base import Start
    from agentpipe.training.shard import Shard

State = dict[str, Any]
# An item, and its name for error messages.
Item = tuple[str, Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reading:
    """Which stream to read, from where, and how much of it stays uncommitted.

    Attributes:
        timeout_s: An epoch ends after this long without a record; None waits forever.
        rows: Whether items are rows of token ids.
        lag: Number of used items that stay uncommitted until a state is requested.
        keep_states: Number of states that can still be loaded.
    """

    settings: Settings
    group: str
    start: Start
    timeout_s: float | None
    rows: bool
    lag: int
    keep_states: int

    def __post_init__(self) -> None:
        """Refuse what would fail only in the process that reads.

        Raises:
            ConfigError: A field is invalid.
        """
        check_type("group", self.group, (str, NoneType), "a string")
        check_group(self.group)
        check_start(self.start)
        check_seconds("timeout_s", self.timeout_s)
        whole("lag", self.lag)
        whole("keep_states", self.keep_states, 1)


class Items(Protocol):
    """The items of a dataset; pickled before it reads."""

    def epoch(self, shard: Shard, limit: int | None) -> Iterator[Item]:
        """The items of one reader, from at most ``limit`` Results or groups."""

    def state_dict(self, shard: Shard) -> State:
        """What was used and may come again; JSON."""

    def load_state_dict(self, shard: Shard, states: tuple[Mapping[str, Any], ...]) -> None:
        """Continue after these states."""


class ResultRows:
    """Token ids of Results, as dicts; warns once if a Result has none."""

    def __init__(self) -> None:
        self._has_told = False

    def of(self, result: Result) -> list[dict[str, Any]]:
        """One row per sample; empty if the Result has no exact rollout."""
        found = samples(result)
        if not found and not self._has_told:
            self._has_told = True
            log.warning(
                "task %s has no exact token ids: it, and what is like it, gives no rows. A "
                "collection with record: {tokens: require} makes such runs an infra_error",
                result.task_id,
            )
        return [{name: getattr(each, name) for name in each.__slots__} for each in found]
