"""SqliteStore: the embedded store, one file for all processes of a machine.

Leases are kept on the monotonic clock, which all processes of a machine share and which
stands still while a laptop sleeps. It starts anew at boot, so a lease is alive only while
``beat <= now < beat + lease``: a beat from before the last boot never looks alive for long.
A time in which nothing could be written (a full disk, a stopped process in a transaction) is no
worker's silence: after it each lease begins anew.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from itertools import compress
from typing import TYPE_CHECKING, Any, Self

import orjson

from agentpipe.brokers.base import Store
from agentpipe.brokers.records import (
    Admission,
    Claim,
    ClaimRequest,
    Group,
    Offer,
    OutboxRecord,
    Queue,
    Refusal,
    Settlement,
    Verdict,
    Worker,
)
from agentpipe.brokers.sqlite import dead_letters, measures, runs
from agentpipe.brokers.sqlite import groups as group_counts
from agentpipe.brokers.sqlite.admission import Rooms, admit, depth_and_bound, known_ids
from agentpipe.brokers.sqlite.budgets import charge, read_spendings, set_budget, with_budgets
from agentpipe.brokers.sqlite.clock import StoreClock
from agentpipe.brokers.sqlite.comparing import compare
from agentpipe.brokers.sqlite.declaring import Declaration, read_sources
from agentpipe.brokers.sqlite.lanes import IS_ANYTHING_READY, LanesKept
from agentpipe.brokers.sqlite.leases import (
    claim_tasks,
    digest_of,
    end_cooldowns,
    end_lapsed_workers,
    end_worker,
    is_known,
    renew_leases,
    wake_delayed,
)
from agentpipe.brokers.sqlite.moving import move_tasks
from agentpipe.brokers.sqlite.pauses import count_runs, drain, is_draining, pause, resume
from agentpipe.brokers.sqlite.policies import change_policy, read_policies
from agentpipe.brokers.sqlite.reading import read_tasks
from agentpipe.brokers.sqlite.settling import (
    answer_unclaimed,
    cancel_task,
    fitting,
    outbox_body,
    settle_task,
)
from agentpipe.brokers.sqlite.tables import (
    LAPSED,
    LAYOUT,
    RAISE_COUNTER,
    SELECT_CANCELLED,
    SELECT_DEPTHS,
    SELECT_OLDEST,
    SELECT_RECENT,
    SELECT_TALLY,
    SELECT_WORKERS,
    add_to_counters,
    add_to_tallies,
    counter,
    depth_of,
    tally_of,
    worker_seen,
)
from agentpipe.brokers.sqlite.task_location import locate
from agentpipe.brokers.statistics import RECENT_S, Stats
from agentpipe.connections.health import examine_folder
from agentpipe.connections.private_files import examine_modes
from agentpipe.connections.sqlite import Database, parse_url
from agentpipe.connections.sqlite_snapshots import Snapshots

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Sequence

    from agentpipe.brokers.breaker import Tripped
    from agentpipe.brokers.capabilities import Answer, Comparison, Fate, TaskQuery, TaskSeen
    from agentpipe.brokers.dead_letter import DeadFilter, DeadLetter, DeadPage
    from agentpipe.brokers.location import TaskLocation
    from agentpipe.brokers.runs import KeptRun
    from agentpipe.brokers.sqlite.lanes import Lanes
    from agentpipe.connections.file_notify import Listener
    from agentpipe.connections.health import Finding
    from agentpipe.connections.scratch import Scratch
    from agentpipe.core.budgets import Budget, Holder, Spending
    from agentpipe.core.policy import PolicyChange, PolicyState
    from agentpipe.settings import Settings

# Who sends heartbeats has other things to watch; the next try is soon.
BEAT_PATIENCE_S = 0.5
SWEEP_EVERY_S = 30.0
SWEEP_ROWS = 5_000


class SqliteStore(Store):
    """The ``Store`` over ``sqlite:///file``; see the seam for what each operation promises.

    What a power loss may take back is not made durable: a claim (the task waits again), a beat,
    the dropping of a delivered result (it is published again, and the stream drops it). Nothing
    is lent to a forwarder before it is durable, so that no result is in the stream whose task
    could still come back.
    """

    away_for_all = True

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
        self._dead = dead_letters.Letters(self._database, dead_letters.DEAD)
        self.undeliverable = dead_letters.Letters(self._database, dead_letters.UNDELIVERABLE)

    @classmethod
    def watching(cls, url: str, _settings: Settings) -> Self:
        """The same for reads alone: it cannot write, and there is a file or an error.

        Raises:
            ConfigError: There is no such file.
            Unreachable: It has an earlier layout, which only a writer may change.
        """
        snapshots: Any = Snapshots(parse_url(url).path, LAYOUT)
        snapshots.refuse_earlier(LAYOUT)
        nothing_heard: Any = ExitStack()
        store = cls.__new__(cls)
        store._begin(snapshots, StoreClock.watching(snapshots), nothing_heard)  # noqa: SLF001 - of its own class
        return store

    def declare(self, queues: Sequence[Queue]) -> None:
        with self._database.read() as db:
            new = Declaration(db, queues).is_new()
        if new:  # Every sender declares when it starts: most change nothing.
            with self._database.write() as db:
                Declaration(db, queues).carry_out()

    def offer(self, target: str, offers: Sequence[Offer], *, round_robin: bool) -> Admission:
        self._database.log.refuse_if_full()
        with self._database.write() as db:
            known = known_ids(db, [offer.task_id for offer in offers])
            rooms = Rooms(db, target, len(offers), round_robin=round_robin)
            verdicts: list[Verdict] = []
            admitted: list[tuple[Offer, int]] = []
            for offer in offers:
                if offer.task_id in known:
                    verdicts.append("duplicate")
                elif (qid := rooms.next() if offer.bounded else rooms.any()) is None:
                    verdicts.append("refused")
                else:
                    known.add(offer.task_id)
                    admitted.append((offer, qid))
                    verdicts.append("accepted")
            if admitted:
                admit(db, admitted, self._clock.now())
                runs.count_accepted(db, [offer.task_id for offer, _ in admitted])
                rooms.advance()
            full = "refused" in verdicts
            waiting, bound = (
                depth_and_bound(db, target, round_robin=round_robin) if full else (0, 0)
            )
        return Admission(tuple(verdicts), waiting, bound)

    def offer_groups(self, target: str, groups: Sequence[Group]) -> Admission:
        self._database.log.refuse_if_full()
        with self._database.write() as db:
            wanted = sum(len(group.offers) for group in groups)
            rooms = Rooms(db, target, wanted, round_robin=True)
            verdicts = group_counts.offer_groups(db, groups, rooms, self._clock.now())
            full = "refused" in verdicts
            waiting, bound = depth_and_bound(db, target, round_robin=True) if full else (0, 0)
        return Admission(tuple(verdicts), waiting, bound)

    def join(self, worker: Worker) -> None:
        seen = (worker.name, worker.host, worker.pid, worker.slots, worker.lease_s)
        queues = orjson.dumps(sorted(worker.queues)).decode()
        with self._database.write(durable=False) as db:
            row = (*seen, time.monotonic(), digest_of(worker.queues), queues)
            db.execute("INSERT OR REPLACE INTO workers VALUES (?, ?, ?, ?, ?, ?, ?, ?, x'')", row)

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
            end_lapsed_workers(db)
            now = self._clock.now()
            wake_delayed(db, now)
            end_cooldowns(db, now)
            self._sweep(db)
            if request.outbox.reached_by(counter(db, "outbox"), counter(db, "outbox_bytes")):
                return []
            return claim_tasks(db, request, lanes, now)

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
        """Forget the ids of tasks settled longer ago than the retention time."""
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
        changes: Counter[str] = Counter()
        with self._database.write(durable=False) as db:
            now = self._clock.now()
            since = [settle_task(db, settlement, changes, now) for settlement in settlements]
            done = [moment is not None for moment in since]
            add_to_counters(db, changes)
            add_to_tallies(db, compress(settlements, done), now)
            charge(db, compress(settlements, done))
            runs.count_settled(db, compress(settlements, done))
            measures.count_settled(db, settlements, since, self._clock)
            tripped = count_runs(db, compress(settlements, done))
        self._tripped += tripped
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
            if not is_known(db, worker):
                return []  # No lease would ever free what it takes.
            rows = db.execute(
                "SELECT seq, task_id, bytes FROM outbox WHERE taker IS NULL ORDER BY seq LIMIT ?",
                (limit,),
            )
            taken = [(seq, task_id) for seq, task_id in fitting(rows, max_bytes)]
            db.executemany(
                "UPDATE outbox SET taker = ? WHERE seq = ?",
                [(worker.name, seq) for seq, _ in taken],
            )
            return [OutboxRecord(seq, task_id, outbox_body(db, seq)) for seq, task_id in taken]

    def drop_outbox(self, worker: Worker, numbers: Sequence[int]) -> None:
        mine = (orjson.dumps(list(numbers)).decode(), worker.name)
        with self._database.write(durable=False) as db:
            # Only its borrower drops a record: after a lapsed lease that is another worker.
            dropped = db.execute(
                "DELETE FROM outbox WHERE seq IN (SELECT value FROM json_each(?)) AND taker = ?"
                " RETURNING seq, bytes",
                mine,
            ).fetchall()
            db.executemany(
                "DELETE FROM outbox_bodies WHERE seq = ?", [(seq,) for seq, _ in dropped]
            )
            size = sum(size for _, size in dropped)
            results = len(dropped) - group_counts.forget_records(db, [seq for seq, _ in dropped])
            add_to_counters(
                db, {"outbox": -len(dropped), "outbox_bytes": -size, "delivered": results}
            )

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
            return change_policy(db, name, change)

    def cancel(self, task_ids: Sequence[str]) -> list[Fate]:
        with self._database.write() as db:
            end_lapsed_workers(db)  # Their tasks wait again.
            return [cancel_task(db, task_id) for task_id in task_ids]

    def take_cancelled(self) -> list[str]:
        with self._database.read() as db:
            return [task_id for (task_id,) in db.execute(SELECT_CANCELLED)]

    def locate(self, task_id: str) -> TaskLocation:
        with self._database.read() as db:
            return locate(db, task_id, self._clock)

    def dead_letters(self, wanted: DeadFilter, after: str, limit: int) -> DeadPage:
        return self._dead.dead_letters(wanted, after, limit)

    def count_dead(self, wanted: DeadFilter) -> int:
        return self._dead.count_dead(wanted)

    def read_dead(self, task_ids: Sequence[str]) -> list[DeadLetter]:
        return self._dead.read_dead(task_ids)

    def drop_dead(self, task_ids: Sequence[str]) -> int:
        return self._dead.drop_dead(task_ids)

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
        """Findings about its folder and its file."""
        path = self._database.path
        return [*examine_folder(path), examine_modes(path), self._database.log.examine()]

    def progress(self, name: str, mark: int) -> int | None:
        with self._database.write() as db:
            return int(db.execute(RAISE_COUNTER, (f"schedule:{name}", mark)).fetchone()[0])

    def stats(self) -> Stats:
        now, moment = time.monotonic(), self._clock.now()
        with self._database.read() as db:
            counters = dict(db.execute("SELECT name, value FROM counters").fetchall())
            (dead,) = db.execute("SELECT count(*) FROM dead").fetchone()
            queues = tuple(depth_of(row) for row in db.execute(SELECT_DEPTHS, (moment,)))
            tally = tally_of(db.execute(SELECT_TALLY).fetchone())
            (recent,) = db.execute(SELECT_RECENT, (moment - RECENT_S,)).fetchone()
            (oldest,) = db.execute(SELECT_OLDEST).fetchone() or (moment,)
            workers = tuple(worker_seen(row) for row in db.execute(SELECT_WORKERS, (now, now)))
            declared = read_sources(db)
            spendings = read_spendings(db)
            measured = measures.read(db)
            groups = group_counts.read_counts(db, counters)
            policies = read_policies(db)
            queues = with_budgets(db, queues, spendings)
        prefix = "outcome:"
        return Stats(
            accepted=counters.get("accepted", 0),
            waiting=sum(queue.waiting or 0 for queue in queues),
            delayed=sum(queue.delayed or 0 for queue in queues),
            running=sum(queue.running or 0 for queue in queues),
            outbox=counters.get("outbox", 0) - groups.records,
            groups=groups,
            outbox_bytes=counters.get("outbox_bytes", 0),
            delivered=counters.get("delivered", 0),
            dead=dead,
            undeliverable=counters.get("undeliverable", 0),
            outcomes={
                name.removeprefix(prefix): value
                for name, value in sorted(counters.items())
                if name.startswith(prefix)
            },
            queues=queues,
            workers=workers,
            tally=tally,
            recent=recent,
            undelivered_s=max(0.0, moment - oldest),
            declared=declared,
            spendings=spendings,
            measures=measured,
            policies=policies,
        )

    def close(self) -> None:
        self._listener.close()
        self._database.close()
