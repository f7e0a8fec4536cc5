"""ResultReader: reads the results of a dispatcher's handles, with two threads for all of them.

One thread follows the stream. The other looks for results that were published before (by id if the
sink is searchable, otherwise by reading the stream from its beginning) and for results that the
sink refuses. A searchable sink is opened when first needed. Any other sink is followed from before
the first task, so no result is missed. Results of tasks without a living handle are dropped.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from agentpipe.core.result import Result
from agentpipe.errors import (
    AgentpipeError,
    ConfigError,
    FormatError,
    NoResult,
    ResultTimeout,
    Unreachable,
)
from agentpipe.sending.pending import Pending
from agentpipe.sending.place_text import place_text
from agentpipe.sending.refused_results import refusal, refused_results
from agentpipe.sinks import is_searchable, open_sink
from agentpipe.sinks.base import Query, Searchable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agentpipe.brokers.base import Store
    from agentpipe.settings import Settings
    from agentpipe.sinks.base import Reader, Record, Sink, Start

LIMIT = 100
POLL_S = 0.5
# How long a first task waits for the sink before it is sent.
READY_S = 30.0
RETRY_PAUSE_S = 0.5
# A thread can be connecting to a server that does not answer.
JOIN_S = 10.0
# Interval of checks for refused results, and the most of the time that they take.
CHECK_S, CHECK_SHARE = 1.0, 0.05
# A stream that returns nothing for this long has been read to its end.
SCAN_IDLE_S = 3.0

log = logging.getLogger(__name__)


class ResultReader:
    """Thread-safe. Opens nothing before it is needed; ``close`` ends it."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings, self._store = settings, store
        self._mutex, self._opening = threading.Lock(), threading.Lock()
        self._sink: Sink | None = None
        self._pending: WeakValueDictionary[str, Pending] = WeakValueDictionary()
        self._lookups: queue.SimpleQueue[Pending | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        # Set once the stream is followed, or once the first try has failed.
        self._tried = threading.Event()
        self._failure: AgentpipeError | None = None
        self._closed = False
        self._next_check = 0.0

    def expect(self, task_id: str, *, named: bool) -> Pending:
        """Prepare for a task about to be sent: do not miss its result, nor take an older one.

        An id that its sender ``named`` can have results of earlier tasks. Sending needs no sink: a
        sink that does not answer is followed once it does.
        """
        try:
            if self._is_searchable:
                return Pending(task_id, after=self._last_position(task_id) if named else 0)
        except AgentpipeError as error:
            log.debug("cannot look for earlier results of %s: %s", task_id, error)
            return Pending(task_id)
        self._start()
        if not self._tried.wait(READY_S):
            log.warning("the sink is slow: results of what is sent now may be missed")
        return self._registered(Pending(task_id))

    def accepted(self, pending: Pending) -> None:
        """Note that the task of ``expect`` was sent: later calls for its id are about this one."""
        with self._mutex:
            self._pending[pending.task_id] = pending

    def known(self, task_id: str) -> Pending:
        """The Pending of a task that was sent before."""
        return self._registered(Pending(task_id, past=True))

    def want(self, pending: Pending) -> None:
        """Start looking for the result: a caller waits for it."""
        if pending.is_settled:
            return
        if self._closed:
            pending.settle(NoResult(f"the dispatcher of task {pending.task_id} is closed"))
            return
        with self._mutex:
            self._pending.setdefault(pending.task_id, pending)
        self._start()
        self._lookups.put(pending)
        if self._failure is not None:
            pending.settle(self._failure)

    def timeout(self, task_id: str, timeout_s: float) -> ResultTimeout:
        """The error of a caller whose timeout has expired."""
        place = place_text(self._store, task_id)
        return ResultTimeout(f"task {task_id} has no result after {timeout_s:g} s: {place}")

    def close(self) -> None:
        """End the threads; handles that still wait get ``NoResult``."""
        with self._mutex:  # Threads are started under this lock.
            self._closed = True
        self._lookups.put(None)
        for thread in self._threads:
            thread.join(JOIN_S)
        if self._sink is not None:
            self._sink.close()
        for pending in self._all():
            pending.settle(NoResult(f"task {pending.task_id}: the dispatcher was closed first"))

    @cached_property
    def _is_searchable(self) -> bool:
        return is_searchable(self._settings)

    def _opened(self) -> Sink:
        """The sink; opened outside the mutex, because an event loop can be waiting for that."""
        with self._opening:
            if self._sink is None:
                self._sink = open_sink(self._settings)
            return self._sink

    def _archive(self) -> Searchable:
        sink = self._opened()
        assert isinstance(sink, Searchable)
        return sink

    def _last_position(self, task_id: str) -> int:
        records = self._archive().search(Query(task_id=task_id))
        return max((each.position for each in records), default=0)

    def _registered(self, pending: Pending) -> Pending:
        """This one, or the one that other callers already wait for."""
        with self._mutex:
            known = self._pending.get(pending.task_id)
            if known is not None and known.serves_for(pending):
                known.past |= pending.past
                return known
            self._pending[pending.task_id] = pending
            return pending

    def _all(self) -> list[Pending]:
        with self._mutex:
            return list(self._pending.values())

    def _start(self) -> None:
        with self._mutex:
            if self._threads or self._closed:
                return
            for run in (self._follow, self._look):
                thread = threading.Thread(
                    target=self._guarded, args=(run,), name=f"results{run.__name__}", daemon=True
                )
                self._threads.append(thread)
                thread.start()

    def _guarded(self, run: Callable[[], None]) -> None:
        """Report to callers what ends a thread; they would otherwise wait forever."""
        try:
            run()
        except Exception as error:  # noqa: BLE001 - any error must reach the callers
            failure = _as_ours(error)
            self._failure = failure
            for pending in self._all():
                pending.settle(failure)
        finally:
            self._tried.set()

    # The thread that follows the stream.

    def _follow(self) -> None:
        reader = self._begin()
        while reader is not None and not self._closed:
            try:
                self._take(reader.poll(LIMIT, POLL_S))
            except Unreachable as error:
                log.debug("waiting for the stream: %s", error)
                time.sleep(RETRY_PAUSE_S)
        if reader is not None:
            reader.close()

    def _begin(self) -> Reader | None:
        """Follow from now; after a failed first try, from its time if the sink keeps the past."""
        begun, start = time.time(), "now"
        while not self._closed:
            try:
                return self._followed("now" if start == "now" else begun)
            except Unreachable as error:
                if start == "now":
                    log.warning("results are read once the sink answers: %s", error)
                start = "then"
            self._tried.set()
            time.sleep(RETRY_PAUSE_S)
        return None

    def _followed(self, start: Start) -> Reader:
        sink = self._opened()
        try:
            reader = sink.follow(None, start)
        except ConfigError:
            if start == "now":
                raise
            reader = sink.follow(None, "now")  # It keeps nothing of the past.
        self._tried.set()
        return reader

    def _take(self, records: Iterable[Record]) -> None:
        for record in records:
            with self._mutex:
                pending = self._pending.get(record.task_id)
            if pending is not None:
                _settle(pending, record)

    # The thread that looks for results published before.

    def _look(self) -> None:
        self._tried.wait()
        while not self._closed:
            asked = self._asked()
            if asked:
                self._look_up(asked)
            self._check_in_time()

    def _asked(self) -> list[Pending]:
        """All results newly waited for; waits a moment for the first."""
        asked: list[Pending] = []
        try:
            asked += [each] if (each := self._lookups.get(timeout=POLL_S)) else []
            while True:
                asked += [each] if (each := self._lookups.get_nowait()) else []
        except queue.Empty:
            return [each for each in asked if not each.is_settled]

    def _look_up(self, asked: list[Pending]) -> None:
        try:
            if self._is_searchable:
                self._search(asked)
            elif past := {each.task_id: each for each in asked if each.past}:
                self._scan(past)
        except Unreachable as error:
            log.debug("waiting for the sink: %s", error)
            time.sleep(RETRY_PAUSE_S)
            for pending in asked:
                self._lookups.put(pending)

    def _search(self, asked: list[Pending]) -> None:
        for pending in asked:
            records = list(self._archive().search(Query(task_id=pending.task_id)))
            for record in reversed(records):
                if record.position > pending.after:
                    _settle(pending, record)

    def _scan(self, past: dict[str, Pending]) -> None:
        try:
            reader = self._opened().follow(None, "beginning")
        except ConfigError as error:
            log.warning("results published before now cannot be read: %s", error)
            return
        try:
            while past and (records := self._polled(reader)):
                for record in records:
                    if record.task_id in past and _settle(past[record.task_id], record):
                        del past[record.task_id]
                self._check_in_time()
        finally:
            reader.close()

    def _polled(self, reader: Reader) -> list[Record]:
        """The next records; empty at the end of the stream."""
        end = time.monotonic() + SCAN_IDLE_S
        while not self._closed and time.monotonic() < end:
            if records := reader.poll(LIMIT, POLL_S):
                return records
        return []

    def _check_in_time(self) -> None:
        if time.monotonic() >= self._next_check:
            self._check()

    def _check(self) -> None:
        """Find awaited results that the sink refuses."""
        begun = time.monotonic()
        awaited = {each.task_id: each for each in self._all() if each.is_awaited}
        try:
            for letter in refused_results(self._store, awaited):
                awaited[letter.task_id].settle(NoResult(refusal(letter), kept=letter.result))
        except AgentpipeError as error:
            log.debug("cannot look for refused results: %s", error)
        took = time.monotonic() - begun
        self._next_check = begun + took + max(CHECK_S, took / CHECK_SHARE)


def _as_ours(error: Exception) -> AgentpipeError:
    if isinstance(error, AgentpipeError):
        return error
    log.error("unexpected error while reading results", exc_info=error)
    return NoResult(f"reading results failed: {error!r}")


def _settle(pending: Pending, record: Record) -> bool:
    """Settle with the record's Result; False if it holds none for this task."""
    try:
        result = Result.decode(record.payload)
    except FormatError:
        return False
    if result.task_id != pending.task_id:
        return False
    pending.settle(result)
    return True
