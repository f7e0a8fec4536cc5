"""Commits: stores in the background what a group's reader has used.

A commit takes a broker some milliseconds. The reader continues in that time, and what it uses goes
into the next commit. If commits lag by more than ``COMMIT_WITHIN_S``, the reader waits before it
uses more. A kill repeats what is not stored by then, however long ago it was used: a reader that
uses one record for long has usually stored all others.
"""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING

from kafka import errors as kafka

from agentpipe.sinks.base import COMMIT_WITHIN_S
from agentpipe.sinks.kafka.topic import ANSWER_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

# The next commit begins this long after the last one ended: what was used until then goes with it.
GATHER_S = 0.015
RETRY_S = 0.05
# How long a reader waits for its commits before it reports a failure.
PATIENCE_S = ANSWER_MS / 1000
FAREWELL_S = 5.0


class Commits:
    """Runs a thread from the first commit until ``close``.

    ``send`` stores offsets by partition. It raises ``RebalanceInProgressError`` if that has to wait
    for a rebalance, and ``CommitFailedError`` if the partitions are lost.
    """

    def __init__(self, send: Callable[[dict[int, int]], None]) -> None:
        self._send = send
        self._changed = threading.Condition()
        self._waiting: dict[int, int] = {}
        self._sending: dict[int, int] = {}
        # When the oldest entry of each began to wait.
        self._waiting_since = self._sending_since = 0.0
        self._error: Exception | None = None
        self._closed_at, self._ended_at = 0.0, -math.inf
        self._thread = threading.Thread(
            target=self._run, name="agentpipe-kafka-commits", daemon=True
        )

    def add(self, offsets: dict[int, int]) -> None:
        """Schedule offsets for the next commit.

        Raises:
            KafkaError: Earlier offsets cannot be stored.
        """
        with self._changed:
            if self._thread.ident is None:
                self._thread.start()
            if not self._waiting:
                self._waiting_since = time.monotonic()
            _raise_to(self._waiting, offsets)
            self._changed.notify_all()
            if not self._changed.wait_for(self._is_close_behind, PATIENCE_S):
                raise self._error or kafka.KafkaTimeoutError("commits get no answer")

    def partitions(self) -> set[int]:
        """Partitions with offsets that are not stored yet."""
        with self._changed:
            return {*self._waiting, *self._sending}

    def behind(self, partition: int) -> int:
        """The offset that will be stored for a partition; 0 if there is none."""
        with self._changed:
            return max(self._waiting.get(partition, 0), self._sending.get(partition, 0))

    def drop(self, partitions: Collection[int]) -> None:
        """Discard the offsets of partitions that other readers have taken over."""
        with self._changed:
            for offsets in (self._waiting, self._sending):
                for partition in partitions:
                    offsets.pop(partition, None)
            self._changed.notify_all()

    def close(self) -> None:
        """Wait until everything is stored, up to ``FAREWELL_S``."""
        with self._changed:
            self._closed_at = time.monotonic()
            self._changed.notify_all()
            self._changed.wait_for(lambda: not (self._waiting or self._sending), FAREWELL_S)

    def _is_close_behind(self) -> bool:
        since = self._sending_since if self._sending else self._waiting_since
        nothing = not (self._sending or self._waiting)
        return nothing or time.monotonic() - since <= COMMIT_WITHIN_S

    def _run(self) -> None:
        while (offsets := self._begin()) is not None:
            error: Exception | None = None
            try:
                if offsets:
                    self._send(offsets)
            except kafka.CommitFailedError:
                pass  # The new readers of these partitions read the records again.
            except (kafka.KafkaError, OSError) as failure:
                error = failure
            self._end(error)

    def _begin(self) -> dict[int, int] | None:
        """Wait for offsets to send; returns {} if they were dropped since, None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed_at)
            gathered_s = time.monotonic() - self._ended_at
            self._changed.wait_for(lambda: self._closed_at, max(0.0, GATHER_S - gathered_s))
            if self._closed_at and (not self._waiting or self._is_given_up()):
                return None
            self._sending, self._waiting = self._waiting, {}
            self._sending_since = self._waiting_since
            return dict(self._sending)

    def _end(self, error: Exception | None) -> None:
        with self._changed:
            if error is not None:
                _raise_to(self._waiting, self._sending)
                self._waiting_since = self._sending_since
            self._error, self._sending, self._ended_at = error, {}, time.monotonic()
            self._changed.notify_all()
            if error is not None:
                self._changed.wait_for(lambda: self._closed_at, RETRY_S)

    def _is_given_up(self) -> bool:
        return time.monotonic() - self._closed_at > FAREWELL_S


def _raise_to(offsets: dict[int, int], others: dict[int, int]) -> None:
    for partition, offset in others.items():
        offsets[partition] = max(offset, offsets.get(partition, 0))
