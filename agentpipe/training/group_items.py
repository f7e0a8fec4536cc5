"""GroupItems: a dataset's complete groups, or each group's rows, each once over all readers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe.training.group_stream import GroupStream
from agentpipe.training.reading import ResultRows
from agentpipe.training.used_groups import UsedGroups

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from agentpipe.training.reading import Item, Reading, State
    from agentpipe.training.rollout_group import RolloutGroup
    from agentpipe.training.shard import Shard


class GroupItems:
    """Groups, or with ``reading.rows`` lists of rows; see ``AgentStreamingDataset``."""

    def __init__(self, reading: Reading, options: Mapping[str, Any]) -> None:
        """Read as ``reading`` says; ``options`` are passed to ``GroupStream.open``."""
        self._reading, self._options = reading, options
        self._rows = ResultRows()
        self._read: list[dict[str, Any]] = []  # Rows of the group decided last.
        self._used = UsedGroups(keep_states=reading.keep_states, lag=reading.lag)
        self._stream: GroupStream | None = None

    def epoch(self, shard: Shard, limit: int | None) -> Generator[Item, None, None]:
        """Iterate over the groups assigned to this reader by a hash of their ids."""
        given, reading = 0, self._reading
        with GroupStream.open(
            reading.settings,
            group=reading.group,
            start=reading.start,
            timeout_s=reading.timeout_s,
            shard=shard,
            used=self._used,
            trains=self._has_rows if reading.rows else None,
            **self._options,
        ) as stream:
            self._stream = stream
            for group in stream:
                given += 1
                if given == limit:
                    stream.stop()
                yield f"group {group.group_id}", self._read if reading.rows else group
                self._used.given(group.group_id)
            stream.settle()
        self._stream = None

    def _has_rows(self, group: RolloutGroup) -> bool:
        self._read = self._rows_of(group)
        return bool(self._read)

    def _rows_of(self, group: RolloutGroup) -> list[dict[str, Any]]:
        return [
            {**row, "advantage": advantage}
            for result, advantage in zip(group.goods, group.advantages(), strict=True)
            for row in self._rows.of(result)
        ]

    def state_dict(self, shard: Shard) -> State:
        """The used groups that may come again; small, and JSON."""
        if self._stream is not None:
            return self._stream.state_dict()
        return self._used.save(shard.named(self._reading.group), ())

    def load_state_dict(self, shard: Shard, states: tuple[Mapping[str, Any], ...]) -> None:
        """Continue after states of this reader.

        Raises:
            ConfigError: A state belongs to another reader.
        """
        self._used.load(shard.named(self._reading.group), states)
