"""Runs: their records and task ids, so that a file sent again adds only the missing tasks.

This broker remembers no task ids. The ids of a run are stored after they are published: if a sender
dies in between, they are sent again, and readers drop the repeats. Two concurrent senders of one
run can both send a task.
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.rabbitmq.shared_state import SharedState, values_of
from agentpipe.brokers.readable_rows import bytes_in, number_in, readable, text_in
from agentpipe.brokers.runs import KeptRun
from agentpipe.core.run_names import run_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from agentpipe.brokers.rabbitmq.topology import Topology
    from agentpipe.connections.amqp.connection import Session

# All ids of a run end up in one message, which servers limit to 16 MiB.
MAX_IDS = 400_000
READ_AGAIN_S = 5.0


class Runs:
    """The runs known to one process, on one connection."""

    def __init__(self, session: Session, topology: Topology) -> None:
        self._session, self._topology = session, topology
        self._state = SharedState[dict[str, Any]](
            session, topology.shared("runs"), _first, values_of(dict)
        )
        self._records: dict[str, dict[str, Any]] = {}
        self._ids: dict[str, set[str]] = {}
        self._read_at = float("-inf")

    async def begin(self, name: str, record: bytes) -> bytes:
        """Store the record unless there is one; returns the stored one."""
        new = {"record": record.decode(), "begun_us": time.time_ns() // 1_000}
        self._keep((await self._state.change(lambda known: _begin(known, name, new)))[0])
        return bytes(self._records[name]["record"].encode())

    async def read(self) -> list[KeptRun]:
        """All runs, in the order of their start."""
        self._keep(await self._state.read())
        found = []
        for _, name, record in sorted(readable("runs", self._records.items(), _kept)):
            tasks = len(await self._ids_of(name).read())
            found.append(KeptRun(name, record, tasks, exact=False))
        return found

    async def drop(self, name: str) -> bool:
        """Forget the record and the ids."""

        def forget(known: dict[str, dict[str, Any]]) -> None:
            known.pop(name, None)

        known, dropped = await self._state.change(forget)
        self._keep(known)
        self._ids.pop(name, None)
        await self._ids_of(name).change(dict.clear)
        return dropped

    async def known(self, task_ids: Collection[str]) -> set[str]:
        """The ids that their runs already have; never ids without a run, or without its record."""
        named = {run for task_id in task_ids if (run := run_of(task_id)) is not None}
        if named and time.monotonic() - self._read_at > READ_AGAIN_S:
            self._keep(await self._state.read())
        for run in named & self._records.keys() - self._ids.keys():
            self._ids[run] = {*await self._ids_of(run).read()}
        return {task_id for task_id in task_ids if _digest(task_id) in self._of(task_id)}

    def keeps(self, task_id: str) -> bool:
        """Whether the id names a run that has a record; call it after ``known``."""
        return run_of(task_id) in self._ids

    async def note(self, task_ids: Iterable[str]) -> None:
        """Note that these tasks are in their queues."""
        new: dict[str, dict[str, int]] = {}
        for task_id in task_ids:
            run = run_of(task_id)
            if run in self._ids and len(self._ids[run]) < MAX_IDS:
                self._ids[run].add(_digest(task_id))
                new.setdefault(run, {})[_digest(task_id)] = 1
        for run, digests in new.items():
            await self._ids_of(run).add(digests)

    def _of(self, task_id: str) -> set[str]:
        return self._ids.get(run_of(task_id) or "", set())

    def _ids_of(self, run: str) -> SharedState[int]:
        return SharedState[int](
            self._session, self._topology.shared(f"run.{run}"), max, values_of(int)
        )

    def _keep(self, records: dict[str, dict[str, Any]]) -> None:
        self._records, self._read_at = records, time.monotonic()
        self._ids = {run: ids for run, ids in self._ids.items() if run in records}


def _kept(pair: tuple[str, Any]) -> tuple[float, str, bytes]:
    name, it = pair
    return number_in(it["begun_us"]), text_in(name), bytes_in(it["record"])


def _first(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return min(one, other, key=lambda it: (it["begun_us"], it["record"]))


def _begin(known: dict[str, dict[str, Any]], name: str, new: dict[str, Any]) -> None:
    known.setdefault(name, new)


def _digest(task_id: str) -> str:
    return hashlib.blake2b(task_id.encode(errors="surrogatepass"), digest_size=8).hexdigest()
