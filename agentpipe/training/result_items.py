"""ResultItems: a dataset's Results, or their rows, each once over all readers."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any, Literal

from agentpipe.sinks.stream import Stream
from agentpipe.training.reading import ResultRows
from agentpipe.training.states import check_states

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agentpipe.training.reading import Item, Reading, State
    from agentpipe.training.shard import Shard

Share = Literal["group", "hash"]


class ResultItems:
    """Results as dicts, or with ``reading.rows`` their rows; see ``AgentStreamingDataset``."""

    def __init__(self, reading: Reading, share: Share) -> None:
        """Read as ``reading`` says; ``share`` splits the Results among readers."""
        self._reading, self._share = reading, share
        self._rows = ResultRows()
        self._known: list[str] = []
        self._begun: dict[str, int] = {}  # Partly used Results: how many rows were used.
        self._state_sizes: deque[int] = deque()
        self._has_states = False
        self._stream: Stream | None = None
        self._current: tuple[str, int, int] | None = None  # Task id, rows yielded, rows in total.

    def epoch(self, shard: Shard, limit: int | None) -> Iterator[Item]:
        """Iterate over the items of one reader."""
        with self._opened(shard) as stream:
            self._stream = stream
            try:
                yield from self._items(stream, shard, limit)
            finally:
                if self._has_states:
                    self._keep_used(stream)
            if not self._has_states:
                stream.release(len(stream.held))
            self._stream = None

    def _keep_used(self, stream: Stream) -> None:
        """Remember what was used: closing returns it to the group, and it comes again."""
        self._known = stream.held
        if self._current is not None:  # The loop was left while this row was in use.
            task_id, given, _ = self._current
            self._begun |= {task_id: given - 1} if given > 1 else {}

    def state_dict(self, shard: Shard) -> State:  # noqa: ARG002 - the state is the same for all
        """Task ids that were used but not committed; small, and JSON."""
        used, begun = list(self._known), dict(self._begun)
        if self._stream is not None:
            self._stream.keep = math.inf
            used = self._stream.held
            self._add_current(used, begun)
            self._state_sizes.append(len(used))
            if len(self._state_sizes) > self._reading.keep_states:
                self._release(self._state_sizes.popleft())
        self._has_states = True
        state = {"version": 1, "group": self._reading.group, "used": used}
        return {**state, "begun": begun} if begun else state

    def _add_current(self, used: list[str], begun: dict[str, int]) -> None:
        if self._current is not None:
            task_id, given, rows = self._current
            if given == rows:
                used.append(task_id)
            else:
                begun[task_id] = given

    def load_state_dict(self, shard: Shard, states: tuple[Mapping[str, Any], ...]) -> None:  # noqa: ARG002 - see state_dict
        """Continue after these states, including other readers' if they share a group.

        Raises:
            ConfigError: A state is not of this group.
        """
        check_states(states, self._reading.group)
        self._known = [task_id for state in states for task_id in state["used"]]
        for state in states:
            for task_id, rows in state.get("begun", {}).items():
                # States of other readers may be older.
                self._begun[task_id] = max(rows, self._begun.get(task_id, 0))
        self._has_states = True

    def _opened(self, shard: Shard) -> Stream:
        reading, group = self._reading, self._reading.group
        if self._share == "hash":
            group = f"{group}-{shard}"
        self._state_sizes.clear()
        return Stream.open(
            reading.settings,
            group=group,
            start=reading.start,
            timeout_s=reading.timeout_s,
            keep=math.inf if self._has_states else reading.lag,
            known=self._known,
        )

    def _items(self, stream: Stream, shard: Shard, limit: int | None) -> Iterator[Item]:
        used, self._current = 0, None
        for result in stream:
            if self._share == "hash" and not shard.has(result.group_id or result.task_id):
                continue
            rows = self._rows.of(result) if self._reading.rows else [result.to_dict()]
            begun = self._begun.pop(result.task_id, 0)
            used += len(rows) > begun
            if used == limit:
                stream.stop()
            for given, row in enumerate(rows[begun:], begun + 1):
                self._current = result.task_id, given, len(rows)
                yield f"task {result.task_id}", row
            self._current = None

    def _release(self, number: int) -> None:
        assert self._stream is not None
        self._stream.release(number)
        self._state_sizes = deque(max(0, covered - number) for covered in self._state_sizes)
