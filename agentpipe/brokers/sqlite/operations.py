"""SqliteOperations: the store's operations for operators and senders, beyond the core."""

from __future__ import annotations

from collections import Counter
from itertools import compress
from typing import TYPE_CHECKING

from agentpipe.brokers.sqlite import dead_letters, measures, runs
from agentpipe.brokers.sqlite.budgets import read_spendings, set_budget
from agentpipe.brokers.sqlite.drains import drain, is_draining, last_drain, note_drain
from agentpipe.brokers.sqlite.layout import LAYOUT
from agentpipe.brokers.sqlite.leases import end_lapsed_workers
from agentpipe.brokers.sqlite.loops import (
    drop_loop,
    hold_loop,
    keep_loop,
    read_loops,
    refuse_others,
)
from agentpipe.brokers.sqlite.moving import move_tasks
from agentpipe.brokers.sqlite.pauses import pause, resume
from agentpipe.brokers.sqlite.policies import read_policies
from agentpipe.brokers.sqlite.policy_changes import change_policy
from agentpipe.brokers.sqlite.queries import RAISE_COUNTER, SELECT_CANCELLED, add_to_counters
from agentpipe.brokers.sqlite.reading import read_tasks
from agentpipe.brokers.sqlite.settling import answer_unclaimed, cancel_task
from agentpipe.brokers.sqlite.task_location import locate
from agentpipe.brokers.with_dead_letters import WithDeadLetters
from agentpipe.connections.health import examine_folder, fail
from agentpipe.connections.private_files import examine_modes
from agentpipe.connections.sqlite import Database
from agentpipe.connections.sqlite_address import SqliteAddress
from agentpipe.connections.wal import WriteAheadLog
from agentpipe.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from agentpipe.brokers.capabilities import Answer, Fate, TaskQuery, TaskSeen
    from agentpipe.brokers.location import TaskLocation
    from agentpipe.brokers.records import Refusal, Worker
    from agentpipe.brokers.runs import KeptRun
    from agentpipe.brokers.sqlite.clock import StoreClock
    from agentpipe.brokers.sqlite.dead_letters import SqliteLetters
    from agentpipe.connections.health import Finding
    from agentpipe.core.budgets import Budget, Holder, Spending
    from agentpipe.core.loop_holds import LoopHold, LoopState
    from agentpipe.core.policy import PolicyChange, PolicyState


class SqliteOperations(WithDeadLetters):
    """The store's capabilities that workers do not need to run tasks; see ``capabilities``."""

    _database: Database
    _clock: StoreClock
    _dead: SqliteLetters

    def tasks(self, query: TaskQuery) -> list[TaskSeen]:
        with self._database.read() as db:
            return read_tasks(db, query)

    def answer(self, answers: Sequence[Answer]) -> list[bool]:
        changes: Counter[str] = Counter()
        with self._database.write() as db:
            done = [answer_unclaimed(db, answer, changes, self._clock.now()) for answer in answers]
            add_to_counters(db, changes)
            runs.count_answered(db, compress(answers, done))
            measures.count_answered(db, compress(answers, done))
        return done

    def move(self, collection: str, agents: Sequence[str], limit: int) -> int:
        with self._database.write() as db:
            return move_tasks(db, collection, agents, limit)

    def pause(
        self,
        *,
        queues: Sequence[str] = (),
        collections: Sequence[str] = (),
        paused: bool,
        reason: str = "",
    ) -> None:
        rows = [*(("queue", name) for name in queues), *(("collection", it) for it in collections)]
        with self._database.write() as db:
            pause(db, rows, reason) if paused else resume(db, rows)

    def drain(self, workers: Collection[str]) -> None:
        with self._database.write() as db:
            drain(db, workers)

    def is_draining(self, worker: Worker) -> bool:
        with self._database.read() as db:
            return is_draining(db, worker.name)

    def note_drain(self, host: str | None) -> None:
        with self._database.write() as db:
            note_drain(db, host)

    def last_drain(self, host: str) -> int:
        with self._database.read() as db:
            return last_drain(db, host)

    def set_budget(self, kind: Holder, name: str, budget: Budget) -> None:
        with self._database.write() as db:
            set_budget(db, kind, name, budget)

    def spendings(self) -> tuple[Spending, ...]:
        with self._database.read() as db:
            return read_spendings(db)

    def policies(self) -> tuple[PolicyState, ...]:
        with self._database.read() as db:
            return read_policies(db)

    def change_policy(self, name: str, change: PolicyChange) -> PolicyState | None:
        with self._database.write() as db:
            refuse_others(db, change.hold)
            return change_policy(db, name, change)

    def hold_loop(
        self, hold: LoopHold, report: bytes, *, lease_s: float, instead_of: str = ""
    ) -> LoopState:
        with self._database.write() as db:
            return hold_loop(db, hold, report, lease_s, instead_of)

    def keep_loop(self, hold: LoopHold, report: bytes, *, lease_s: float) -> LoopState | None:
        with self._database.write() as db:
            return keep_loop(db, hold, report, lease_s)

    def drop_loop(self, hold: LoopHold) -> None:
        with self._database.write() as db:
            drop_loop(db, hold)

    def loops(self) -> tuple[LoopState, ...]:
        with self._database.read() as db:
            return read_loops(db)

    def cancel(self, task_ids: Sequence[str]) -> list[Fate]:
        with self._database.write() as db:
            end_lapsed_workers(db)  # Their tasks count as waiting, not running.
            return [cancel_task(db, task_id) for task_id in task_ids]

    def take_cancelled(self) -> list[str]:
        with self._database.read() as db:
            return [task_id for (task_id,) in db.execute(SELECT_CANCELLED)]

    def locate(self, task_id: str) -> TaskLocation:
        with self._database.read() as db:
            return locate(db, task_id, self._clock)

    def set_aside(self, worker: Worker, refusals: Sequence[Refusal]) -> None:
        with self._database.write() as db:
            add_to_counters(db, dead_letters.set_aside(db, worker.name, refusals))

    def deliver_again(self, task_ids: Sequence[str]) -> int:
        with self._database.write() as db:
            changes = dead_letters.deliver_again(db, task_ids)
            add_to_counters(db, changes)
        return changes["outbox"]

    def begin_run(self, name: str, record: bytes) -> bytes:
        with self._database.write() as db:
            return runs.begin(db, name, record)

    def runs(self) -> list[KeptRun]:
        with self._database.read() as db:
            return runs.read(db)

    def drop_run(self, name: str) -> bool:
        with self._database.write() as db:
            return runs.drop(db, name)

    def examine(self) -> list[Finding]:
        """Return findings about the store's folder and file, and whether it can be written."""
        path = self._database.path
        log = WriteAheadLog(path).examine()
        return [*examine_folder(path), examine_modes(path), log, *_refused_writes(path)]

    def progress(self, name: str, mark: int) -> int | None:
        with self._database.write() as db:
            return int(db.execute(RAISE_COUNTER, (f"schedule:{name}", mark)).fetchone()[0])


def _refused_writes(path: Path) -> list[Finding]:
    """What keeps this process from writing to the file, such as another that holds its lock."""
    try:
        Database(SqliteAddress(path), LAYOUT).close()
    except Unreachable as error:
        advice = "until then nothing is sent, claimed or settled; commands that read still work"
        return [fail("writing", str(error), advice)]
    return []
