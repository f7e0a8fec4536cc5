"""SqliteStore: the embedded store, one file shared by all processes of a machine.

Leases use the monotonic clock, which all processes of a machine share and which stops while a
laptop sleeps. It restarts at boot, so a lease is alive only while ``beat <= now < beat + lease``:
a beat from before the last boot never looks alive for long. If nothing could be written for a while
(a full disk, a stopped process in a transaction), that time does not count against any worker:
afterwards every lease restarts.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from itertools import compress
from typing import TYPE_CHECKING, Any, Self

from agentpipe.brokers.base import Store
from agentpipe.brokers.sqlite import groups as group_counts
from agentpipe.brokers.sqlite import measures, runs, served
from agentpipe.brokers.sqlite.admission import (
    Rooms,
    admission_of,
    admit,
    judge,
    known_ids,
    no_pause,
)
from agentpipe.brokers.sqlite.breaker import count_runs
from agentpipe.brokers.sqlite.budgets import charge
from agentpipe.brokers.sqlite.claiming import claim_tasks
from agentpipe.brokers.sqlite.clock import StoreClock
from agentpipe.brokers.sqlite.comparing import compare
from agentpipe.brokers.sqlite.dead_letters import DEAD, UNDELIVERABLE, SqliteLetters
from agentpipe.brokers.sqlite.declaring import QueueChanges
from agentpipe.brokers.sqlite.lanes import CONCERNS_OTHERS, IS_ANYTHING_READY, LanesKept
from agentpipe.brokers.sqlite.layout import LAYOUT
from agentpipe.brokers.sqlite.leases import end_lapsed_workers, end_worker, is_known, renew_leases
from agentpipe.brokers.sqlite.loops import refuse_others
from agentpipe.brokers.sqlite.operations import SqliteOperations
from agentpipe.brokers.sqlite.outbox import borrow, borrowed, drop, free
from agentpipe.brokers.sqlite.queries import LAPSED, add_to_counters
from agentpipe.brokers.sqlite.settling import settle_all
from agentpipe.brokers.sqlite.snapshot import read_stats
from agentpipe.brokers.sqlite.tallies import add_to_tallies
from agentpipe.connections.sqlite import Database
from agentpipe.connections.sqlite_address import parse_url
from agentpipe.connections.sqlite_snapshots import Snapshots

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection, Sequence

    from agentpipe.brokers.breaker import Tripped
    from agentpipe.brokers.capabilities import Comparison, OfferPace
    from agentpipe.brokers.records import (
        Admission,
        Claim,
        ClaimRequest,
        Group,
        Offer,
        OutboxRecord,
        Queue,
        Settlement,
        Worker,
    )
    from agentpipe.brokers.sqlite.lanes import Lanes
    from agentpipe.brokers.statistics import Stats
    from agentpipe.connections.file_notify import Listener
    from agentpipe.connections.scratch import Scratch
    from agentpipe.core.loop_holds import LoopHold
    from agentpipe.settings import Settings

# Short, because the heartbeat thread has other work, and the next heartbeat is soon.
BEAT_PATIENCE_S = 0.5
SWEEP_EVERY_S = 30.0
SWEEP_ROWS = 5_000


class SqliteStore(SqliteOperations, Store):
    """The ``Store`` for ``sqlite:///file``; see ``Store`` for the contract of each operation.

    Writes that a power loss can safely undo are not synced to disk: a claim (the task waits
    again), a heartbeat, the removal of a delivered result (it is published again, and the stream
    drops the duplicate). A result is leased to a forwarder only after it is durable, so the stream
    never contains a result whose task could still come back.
    """

    away_for_all = True
    waits_for_disk = True

    def __init__(self, url: str, settings: Settings) -> None:
        database = Database(parse_url(url), LAYOUT, renew_leases)
        self._begin(database, StoreClock.of(database), database.listener())
        self._retention_s = settings.retention_s
        self._next_sweep = 0.0
        self._tripped: list[Tripped] = []
        self._lanes = LanesKept()

    @staticmethod
    def scratch(url: str, name: str) -> Scratch:
        """See ``MakesScratch``."""
        from agentpipe.connections.sqlite_scratch import scratch_of

        return scratch_of(url, name)

    def _begin(self, database: Database, clock: StoreClock, listener: Listener) -> None:
        self._database, self._clock, self._listener = database, clock, listener
        self._dead = SqliteLetters(self._database, DEAD)
        self.undeliverable = SqliteLetters(self._database, UNDELIVERABLE)

    @classmethod
    def watching(cls, url: str, _settings: Settings) -> Self:
        """Open the store for reading only; never creates the file.

        Raises:
            ConfigError: The file does not exist.
            Unreachable: The file has an older layout, which only a writer can migrate.
        """
        snapshots: Any = Snapshots(parse_url(url).path, LAYOUT)
        snapshots.refuse_earlier(LAYOUT)
        nothing_heard: Any = ExitStack()
        store = cls.__new__(cls)
        store._begin(snapshots, StoreClock.watching(snapshots), nothing_heard)  # noqa: SLF001 - of its own class
        return store

    def declare(self, queues: Sequence[Queue]) -> None:
        with self._database.read() as db:
            new = QueueChanges(db, queues).is_new()
        if new:  # Every sender declares at startup, and most change nothing.
            with self._database.write() as db:
                QueueChanges(db, queues).carry_out()

    def offer(self, target: str, offers: Sequence[Offer], *, round_robin: bool) -> Admission:
        return self._offer(target, offers, round_robin=round_robin)

    def pack(self, offers: Sequence[Offer]) -> Sequence[Offer]:
        return offers  # SQLite takes the fields as they are.

    def offer_at_pace(
        self, target: str, offers: Sequence[Offer], *, round_robin: bool, pace: OfferPace
    ) -> Admission:
        return self._offer(target, offers, round_robin=round_robin, note_pause=pace.pause)

    def _offer(
        self,
        target: str,
        offers: Sequence[Offer],
        *,
        round_robin: bool,
        note_pause: Callable[[], None] = no_pause,
    ) -> Admission:
        self._database.log.refuse_if_full()
        with self._database.write(durable=False) as db:
            rooms = Rooms(db, target, len(offers), round_robin=round_robin)
            known = known_ids(db, [offer.task_id for offer in offers])
            verdicts, admitted = judge(offers, known, rooms)
            if admitted:
                admit(db, admitted, self._clock.now(), note_pause)
                runs.count_accepted(db, [offer.task_id for offer, _ in admitted])
                rooms.advance()
            admission = admission_of(db, target, verdicts, round_robin=round_robin)
            note_pause()  # The commit is a long step, too.
        note_pause()  # So is the wait for the disk.
        self._database.sync()
        return admission

    def offer_groups(
        self, target: str, groups: Sequence[Group], hold: LoopHold | None = None
    ) -> Admission:
        self._database.log.refuse_if_full()
        with self._database.write() as db:
            refuse_others(db, hold)
            wanted = sum(len(group.offers) for group in groups)
            rooms = Rooms(db, target, wanted, round_robin=True)
            verdicts = group_counts.offer_groups(db, groups, rooms, self._clock.now())
            return admission_of(db, target, verdicts, round_robin=True)

    def join(self, worker: Worker) -> None:
        with self._database.write(durable=False) as db:
            served.join(db, worker)

    def heartbeat(self, worker: Worker, report: bytes | None = None) -> bool:
        self._database.log.watch()
        query = "UPDATE workers SET beat = ?, report = coalesce(?, report) WHERE name = ?"
        with self._database.write(durable=False, patience_s=BEAT_PATIENCE_S) as db:
            beat = (time.monotonic(), report, worker.name)
            return db.execute(query, beat).rowcount == 1

    @property
    def in_doubt(self) -> bool:
        return False

    def compare(
        self,
        worker: Worker,
        held: Collection[tuple[str, int]],
        forwarding: Collection[int] | None,
    ) -> Comparison:
        return compare(self._database, worker, held, forwarding)

    def leave(self, worker: Worker) -> int:
        self._lanes.forget(worker)
        with self._database.write(durable=False) as db:
            return end_worker(db, worker.name, ())

    def bury(self, worker: Worker, begun: Sequence[str]) -> None:
        with self._database.write(durable=False) as db:
            end_worker(db, worker.name, begun)

    def claim(self, request: ClaimRequest) -> list[Claim]:
        if self._database.log.is_full:
            return []
        with self._database.read() as db:
            lanes = self._lanes.of(db, request.worker)
        if not self._may_claim(lanes):
            return []
        with self._database.write(durable=False) as db:
            claims = self._claim(db, request, lanes)
            self._wake_if_needed(db)
        return claims

    def settle_and_claim(
        self, settlements: Sequence[Settlement], request: ClaimRequest
    ) -> tuple[list[bool], list[Claim]]:
        is_full = self._database.log.is_full
        tripped: list[Tripped] = []
        with self._database.write(durable=False) as db:
            done = self._settle(db, settlements, tripped)
            lanes = self._lanes.of(db, request.worker)
            claims = [] if is_full else self._claim(db, request, lanes)
            self._wake_if_needed(db)
        self._tripped += tripped
        return done, claims

    def _wake_if_needed(self, db: sqlite3.Connection) -> None:
        """Suppress the wake-up of listeners if there is nothing to claim and no run to cancel.

        Otherwise a worker that claims with each settlement would wake all others, and itself,
        hundreds of times per second.
        """
        if not db.execute(CONCERNS_OTHERS).fetchone()[0]:
            self._database.hush()

    def _claim(self, db: sqlite3.Connection, request: ClaimRequest, lanes: Lanes) -> list[Claim]:
        self._sweep(db)
        return claim_tasks(db, request, lanes, self._clock.now())

    def _may_claim(self, lanes: Lanes) -> bool:
        now, moment = time.monotonic(), self._clock.now()
        with self._database.read() as db:
            (found,) = db.execute(
                f"SELECT {IS_ANYTHING_READY}"
                " OR EXISTS (SELECT 1 FROM tasks WHERE state = 1 AND due <= ?)"
                " OR EXISTS (SELECT 1 FROM queues WHERE held_until > 0 AND held_until <= ?)"
                f" OR EXISTS (SELECT 1 FROM workers WHERE {LAPSED})",
                (lanes.plain, lanes.gates, moment, moment, now, now),
            ).fetchone()
        return bool(found) or now >= self._next_sweep

    def _sweep(self, db: sqlite3.Connection) -> None:
        """Delete the ids of tasks settled longer ago than the retention time."""
        if time.monotonic() < self._next_sweep:
            return
        swept = db.execute(
            "DELETE FROM tasks WHERE seq IN"
            " (SELECT seq FROM tasks WHERE state = 3 AND settled_at < ? LIMIT ?)",
            (self._clock.now() - self._retention_s, SWEEP_ROWS),
        ).rowcount
        self._next_sweep = time.monotonic() + (0 if swept == SWEEP_ROWS else SWEEP_EVERY_S)

    def wait(self, timeout_s: float) -> None:
        self._listener.wait(timeout_s)

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        tripped: list[Tripped] = []
        with self._database.write(durable=False) as db:
            done = self._settle(db, settlements, tripped)
        self._tripped += tripped
        return done

    def _settle(
        self, db: sqlite3.Connection, settlements: Sequence[Settlement], tripped: list[Tripped]
    ) -> list[bool]:
        """Apply settlements and add the pauses that they cause to ``tripped``.

        The pauses take effect when the transaction commits.
        """
        changes: Counter[str] = Counter()
        now = self._clock.now()
        settled = settle_all(db, settlements, changes, now)
        done = [claimed is not None for claimed in settled.claims]
        add_to_counters(db, changes)
        add_to_tallies(db, compress(settlements, done), now)
        charge(db, compress(settlements, done))
        runs.count_settled(db, compress(settlements, done))
        measures.count_settled(db, settlements, settled.claims, self._clock)
        ended = compress(settlements, done)
        tripped += count_runs(db, ended, has_streaks=settled.has_streaks)
        return done

    def take_tripped(self) -> list[Tripped]:
        tripped, self._tripped = self._tripped, []
        return tripped

    def sync(self) -> None:
        self._database.sync()

    def take_outbox(self, worker: Worker, limit: int, max_bytes: int) -> list[OutboxRecord]:
        now = time.monotonic()
        with self._database.read() as db:
            (found,) = db.execute(
                "SELECT EXISTS (SELECT 1 FROM outbox WHERE taker IS NULL)"
                f" OR EXISTS (SELECT 1 FROM workers WHERE {LAPSED})",
                (now, now),
            ).fetchone()
        if not found:
            return []
        with self._database.write() as db:
            end_lapsed_workers(db)
            # An unknown worker has no lease, so nothing would ever free its results.
            taken = borrow(db, worker, limit, max_bytes) if is_known(db, worker) else []
            self._wake_if_needed(db)
        with self._database.read() as db:  # Read outside the write lock, to block no writer.
            return borrowed(db, taken)

    def drop_outbox(self, worker: Worker, numbers: Sequence[int]) -> None:
        drop(self._database, worker, numbers, self._wake_if_needed)

    def return_outbox(self, worker: Worker, numbers: Sequence[int]) -> None:
        with self._database.write(durable=False) as db:
            free(db, worker.name, numbers)

    def stats(self) -> Stats:
        with self._database.read() as db:
            return read_stats(db, self._clock)

    def close(self) -> None:
        self._listener.close()
        self._database.close()
