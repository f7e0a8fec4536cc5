"""SqliteStore: the embedded store, one file for all processes of a machine.

Leases are kept on the monotonic clock, which all processes of a machine share and which
stands still while a laptop sleeps. It starts anew at boot, so a lease is alive only while
``beat <= now < beat + lease``: a beat from before the last boot never looks alive for long.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.brokers.store import (
    Admission,
    Answer,
    Claim,
    DeadLetter,
    Offer,
    OutboxRecord,
    Queue,
    QueueDepth,
    Settlement,
    Stats,
    Verdict,
    Waiting,
    Worker,
    WorkerSeen,
)
from agentpipe.database import Database, parse_url

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

    from agentpipe.settings import Settings

WAITING, DELAYED, RUNNING, SETTLED = range(4)
LAYOUT = 1
SWEEP_EVERY_S = 30.0
SWEEP_ROWS = 5_000

# Payloads have a table of their own, so that a change of state never rewrites one.
SCHEMA = """
CREATE TABLE queues (
    qid INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, collection TEXT, position INTEGER,
    max_waiting INTEGER NOT NULL, concurrency INTEGER NOT NULL, max_crashes INTEGER NOT NULL,
    waiting INTEGER NOT NULL DEFAULT 0, delayed INTEGER NOT NULL DEFAULT 0,
    running INTEGER NOT NULL DEFAULT 0, turn INTEGER NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX queues_ring ON queues (collection, position) WHERE position IS NOT NULL;
CREATE INDEX queues_ready ON queues (turn) WHERE waiting > 0 AND running < concurrency;
CREATE TABLE rings (collection TEXT PRIMARY KEY, cursor INTEGER NOT NULL);
CREATE TABLE tasks (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, qid INTEGER NOT NULL,
    state INTEGER NOT NULL, priority INTEGER NOT NULL, number INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0, crashes INTEGER NOT NULL DEFAULT 0,
    last_chance INTEGER NOT NULL DEFAULT 0, worker TEXT, due REAL,
    submitted_at REAL NOT NULL, settled_at REAL);
CREATE INDEX tasks_waiting ON tasks (qid, priority, seq) WHERE state = 0;
CREATE INDEX tasks_delayed ON tasks (due) WHERE state = 1;
CREATE INDEX tasks_running ON tasks (worker) WHERE state = 2;
CREATE INDEX tasks_last_chance ON tasks (state, worker) WHERE last_chance = 1;
CREATE INDEX tasks_settled ON tasks (settled_at) WHERE state = 3;
CREATE TABLE payloads (seq INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, task_id TEXT NOT NULL, bytes INTEGER NOT NULL,
    taker TEXT);
CREATE INDEX outbox_free ON outbox (seq) WHERE taker IS NULL;
CREATE TABLE outbox_bodies (seq INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE dead (
    task_id TEXT PRIMARY KEY, queue TEXT NOT NULL, collection TEXT, payload BLOB NOT NULL,
    result BLOB NOT NULL, outcome TEXT NOT NULL, reason TEXT NOT NULL, died_at REAL NOT NULL);
CREATE INDEX dead_by_age ON dead (died_at);
CREATE TABLE workers (
    name TEXT PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, slots INTEGER NOT NULL,
    lease_s REAL NOT NULL, beat REAL NOT NULL);
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL)
"""


class SqliteStore:
    """The ``Store`` over ``sqlite:///file``; see the seam for what each operation promises.

    What a power loss may take back is not made durable: a claim (the task waits again), a beat,
    the dropping of a delivered result (it is published again, and the stream drops it). Nothing
    is lent to a forwarder before it is durable, so that no result is in the stream whose task
    could still come back.
    """

    def __init__(self, url: str, settings: Settings) -> None:
        self._database = Database(parse_url(url), SCHEMA, LAYOUT)
        self._listener = self._database.listener()
        self._retention_s = settings.retention_s
        self._next_sweep = 0.0

    def declare(self, queues: Sequence[Queue]) -> None:
        wanted = {row[0]: row for row in _rows_of(queues)}
        with self._database.read() as db:
            found = {row[0]: tuple(row) for row in db.execute(_SELECT_DECLARED)}
        rings = {row[1] for row in wanted.values() if row[1]}
        stale = [
            name
            for name, (_, ring, position, *_) in found.items()
            if ring in rings and position is not None and name not in wanted
        ]
        # Every sender declares at its start: write only where something differs.
        if all(found.get(name) == row for name, row in wanted.items()) and not stale:
            return
        with self._database.write() as db:
            for ring in rings:
                db.execute("UPDATE queues SET position = NULL WHERE collection = ?", (ring,))
            db.executemany(_UPSERT_QUEUE, wanted.values())

    def offer(self, target: str, offers: Sequence[Offer], *, ring: bool) -> Admission:
        with self._database.write() as db:
            known = _known_ids(db, [offer.task_id for offer in offers])
            rooms = _Rooms(db, target, len(offers), ring=ring)
            verdicts: list[Verdict] = []
            admitted: list[tuple[Offer, int]] = []
            for offer in offers:
                if offer.task_id in known:
                    verdicts.append("duplicate")
                elif (qid := rooms.next()) is None:
                    verdicts.append("refused")
                else:
                    known.add(offer.task_id)
                    admitted.append((offer, qid))
                    verdicts.append("accepted")
            if admitted:
                _admit(db, admitted)
                rooms.advance()
            depth, bound = _depth(db, target, ring=ring) if "refused" in verdicts else (0, 0)
        return Admission(tuple(verdicts), depth, bound)

    def join(self, worker: Worker) -> None:
        row = (worker.name, worker.host, worker.pid, worker.slots, worker.lease_s, time.monotonic())
        with self._database.write(durable=False) as db:
            db.execute("INSERT OR REPLACE INTO workers VALUES (?, ?, ?, ?, ?, ?)", row)

    def extend(self, worker: Worker) -> bool:
        beat = (time.monotonic(), worker.name)
        with self._database.write(durable=False) as db:
            return db.execute("UPDATE workers SET beat = ? WHERE name = ?", beat).rowcount == 1

    def leave(self, worker: Worker) -> int:
        with self._database.write(durable=False) as db:
            return _end_worker(db, worker.name, crashed=False)

    def claim(
        self,
        worker: Worker,
        limit: int,
        *,
        high_water: int,
        high_water_bytes: int,
        held: int | None = None,
    ) -> list[Claim]:
        if not self._may_claim():
            return []
        with self._database.write(durable=False) as db:
            _end_lapsed_workers(db)
            _wake_delayed(db)
            self._sweep(db)
            if _counter(db, "outbox") >= high_water:
                return []
            if _counter(db, "outbox_bytes") >= high_water_bytes:
                return []
            return _claim(db, worker, limit, held)

    def _may_claim(self) -> bool:
        now = time.monotonic()
        with self._database.read() as db:
            (found,) = db.execute(
                "SELECT EXISTS (SELECT 1 FROM queues WHERE waiting > 0 AND running < concurrency)"
                " OR EXISTS (SELECT 1 FROM tasks WHERE state = 1 AND due <= ?)"
                f" OR EXISTS (SELECT 1 FROM workers WHERE {_LAPSED})",
                (time.time(), now, now),
            ).fetchone()
        return bool(found) or now >= self._next_sweep

    def _sweep(self, db: sqlite3.Connection) -> None:
        """Forget the ids of tasks settled longer ago than the retention time."""
        if time.monotonic() < self._next_sweep:
            return
        swept = db.execute(
            "DELETE FROM tasks WHERE seq IN"
            " (SELECT seq FROM tasks WHERE state = 3 AND settled_at < ? LIMIT ?)",
            (time.time() - self._retention_s, SWEEP_ROWS),
        ).rowcount
        self._next_sweep = time.monotonic() + (0 if swept == SWEEP_ROWS else SWEEP_EVERY_S)

    def wait(self, timeout_s: float) -> None:
        self._listener.wait(timeout_s)

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        changes: Counter[str] = Counter()
        with self._database.write(durable=False) as db:
            done = [_settle(db, settlement, changes) for settlement in settlements]
            _count(db, changes)
        return done

    def sync(self) -> None:
        self._database.sync()

    def take_outbox(self, worker: Worker, limit: int, max_bytes: int) -> list[OutboxRecord]:
        now = time.monotonic()
        with self._database.read() as db:
            (found,) = db.execute(
                "SELECT EXISTS (SELECT 1 FROM outbox WHERE taker IS NULL)"
                f" OR EXISTS (SELECT 1 FROM workers WHERE {_LAPSED})",
                (now, now),
            ).fetchone()
        if not found:
            return []
        with self._database.write() as db:
            _end_lapsed_workers(db)
            if not _is_known(db, worker):
                return []  # Nobody would free what it takes.
            rows = db.execute(
                "SELECT seq, task_id, bytes FROM outbox WHERE taker IS NULL ORDER BY seq LIMIT ?",
                (limit,),
            )
            taken = [(seq, task_id) for seq, task_id in _within(rows, max_bytes)]
            db.executemany(
                "UPDATE outbox SET taker = ? WHERE seq = ?",
                [(worker.name, seq) for seq, _ in taken],
            )
            return [OutboxRecord(seq, task_id, _outbox_body(db, seq)) for seq, task_id in taken]

    def drop_outbox(self, worker: Worker, numbers: Sequence[int]) -> None:
        mine = (orjson.dumps(list(numbers)).decode(), worker.name)
        with self._database.write(durable=False) as db:
            # Only the taker drops: after a lapsed lease the record may be another's.
            dropped = db.execute(
                "DELETE FROM outbox WHERE seq IN (SELECT value FROM json_each(?)) AND taker = ?"
                " RETURNING seq, bytes",
                mine,
            ).fetchall()
            db.executemany(
                "DELETE FROM outbox_bodies WHERE seq = ?", [(seq,) for seq, _ in dropped]
            )
            size = sum(size for _, size in dropped)
            _count(db, {"outbox": -len(dropped), "outbox_bytes": -size, "delivered": len(dropped)})

    def peek(self, queues: Sequence[str] | None, after: int, limit: int) -> list[Waiting]:
        where = "" if queues is None else " AND q.name IN (SELECT value FROM json_each(:queues))"
        names = orjson.dumps(list(queues or ())).decode()
        with self._database.read() as db:
            rows = db.execute(
                "SELECT t.seq, t.id, q.name, p.body, t.submitted_at"
                " FROM tasks t JOIN queues q USING (qid) JOIN payloads p USING (seq)"
                f" WHERE t.state IN (0, 1) AND t.seq > :after{where} ORDER BY t.seq LIMIT :limit",
                {"after": after, "limit": limit, "queues": names},
            )
            return [Waiting(*row) for row in rows]

    def answer(self, answers: Sequence[Answer]) -> list[bool]:
        changes: Counter[str] = Counter()
        with self._database.write() as db:
            done = [_answer_unclaimed(db, answer, changes) for answer in answers]
            _count(db, changes)
        return done

    def dead_letters(
        self, collection: str | None = None, task_ids: Sequence[str] | None = None
    ) -> list[DeadLetter]:
        query = "SELECT * FROM dead WHERE (:collection IS NULL OR collection = :collection)"
        values: dict[str, Any] = {"collection": collection}
        if task_ids is not None:
            query += " AND task_id IN (SELECT value FROM json_each(:ids))"
            values["ids"] = orjson.dumps(list(task_ids)).decode()
        with self._database.read() as db:
            return [DeadLetter(*row) for row in db.execute(f"{query} ORDER BY died_at", values)]

    def drop_dead(self, task_ids: Sequence[str]) -> int:
        with self._database.write() as db:
            dropped = 0
            for task_id in task_ids:
                dropped += db.execute("DELETE FROM dead WHERE task_id = ?", (task_id,)).rowcount
            return dropped

    def stats(self) -> Stats:
        now = time.monotonic()
        with self._database.read() as db:
            counters = dict(db.execute("SELECT name, value FROM counters").fetchall())
            (dead,) = db.execute("SELECT count(*) FROM dead").fetchone()
            queues = tuple(QueueDepth(*row) for row in db.execute(_SELECT_DEPTHS))
            workers = tuple(_seen(row) for row in db.execute(_SELECT_WORKERS, (now, now)))
        prefix = "outcome:"
        return Stats(
            accepted=counters.get("accepted", 0),
            waiting=sum(queue.waiting or 0 for queue in queues),
            delayed=sum(queue.delayed or 0 for queue in queues),
            running=sum(queue.running or 0 for queue in queues),
            outbox=counters.get("outbox", 0),
            outbox_bytes=counters.get("outbox_bytes", 0),
            delivered=counters.get("delivered", 0),
            dead=dead,
            outcomes={
                name.removeprefix(prefix): value
                for name, value in sorted(counters.items())
                if name.startswith(prefix)
            },
            queues=queues,
            workers=workers,
        )

    def close(self) -> None:
        self._listener.close()
        self._database.close()


class _Rooms:
    """Hands out queues round-robin from the ring's cursor, each up to its bound."""

    def __init__(self, db: sqlite3.Connection, target: str, wanted: int, *, ring: bool) -> None:
        self._db, self._ring = db, target if ring else None
        if ring:
            row = db.execute("SELECT cursor FROM rings WHERE collection = ?", (target,)).fetchone()
            self._cursor = row[0] if row else 0
            self._free = self._in_ring(target, wanted)
        else:
            self._cursor = 0
            self._free = db.execute(
                "SELECT qid, max_waiting - waiting, 0 FROM queues"
                " WHERE name = ? AND waiting < max_waiting",
                (target,),
            ).fetchall()
        self._free.reverse()
        self._later: list[tuple[int, int, int]] = []

    def _in_ring(self, target: str, wanted: int) -> list[tuple[int, int, int]]:
        """Up to ``wanted`` queues with room, in ring order from the cursor: more cannot be used."""
        query = (
            "SELECT qid, max_waiting - waiting, position FROM queues WHERE collection = ?"
            " AND position IS NOT NULL AND waiting < max_waiting AND position {} ?"
            " ORDER BY position LIMIT ?"
        )
        ahead = self._db.execute(query.format(">="), (target, self._cursor, wanted)).fetchall()
        behind = self._db.execute(
            query.format("<"), (target, self._cursor, wanted - len(ahead))
        ).fetchall()
        return ahead + behind

    def next(self) -> int | None:
        """The queue for the next task, or None where all are full."""
        if not self._free:
            self._free, self._later = self._later[::-1], []
        if not self._free:
            return None
        qid, room, position = self._free.pop()
        if room > 1:
            self._later.append((qid, room - 1, position))
        self._cursor = position + 1
        return qid

    def advance(self) -> None:
        """Remember where the next offer begins."""
        if self._ring is not None:
            self._db.execute(
                "INSERT OR REPLACE INTO rings VALUES (?, ?)", (self._ring, self._cursor)
            )


_LAPSED = "NOT (beat <= ? AND ? < beat + lease_s)"
_SELECT_DECLARED = (
    "SELECT name, collection, position, max_waiting, concurrency, max_crashes FROM queues"
)
_SELECT_DEPTHS = (
    "SELECT name, collection, waiting, delayed, running, max_waiting, concurrency FROM queues"
    " WHERE position IS NOT NULL OR collection IS NULL OR waiting + delayed + running > 0"
    " ORDER BY collection, position, name"
)
_SELECT_WORKERS = (
    "SELECT name, host, pid, slots, beat,"
    " (SELECT count(*) FROM tasks WHERE state = 2 AND worker = name) FROM workers"
    f" WHERE NOT ({_LAPSED}) ORDER BY name"
)
_UPSERT_QUEUE = (
    "INSERT INTO queues (name, collection, position, max_waiting, concurrency, max_crashes)"
    " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET collection = excluded.collection,"
    " position = excluded.position, max_waiting = excluded.max_waiting,"
    " concurrency = excluded.concurrency, max_crashes = excluded.max_crashes"
)


def _rows_of(queues: Iterable[Queue]) -> Iterable[tuple[Any, ...]]:
    positions: dict[str, int] = {}
    for queue in queues:
        position = None
        if queue.collection is not None:
            position = positions.get(queue.collection, 0)
            positions[queue.collection] = position + 1
        limits = (queue.max_waiting, queue.concurrency, queue.max_crashes)
        yield (queue.name, queue.collection, position, *limits)


def _count(db: sqlite3.Connection, changes: Mapping[str, int]) -> None:
    db.executemany(
        "INSERT INTO counters VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
        changes.items(),
    )


def _counter(db: sqlite3.Connection, name: str) -> int:
    row = db.execute("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()
    return row[0] if row else 0


def _known_ids(db: sqlite3.Connection, ids: Sequence[str]) -> set[str]:
    rows = db.execute(
        "SELECT id FROM tasks WHERE id IN (SELECT value FROM json_each(?))",
        (orjson.dumps(ids).decode(),),
    )
    return {row[0] for row in rows}


def _admit(db: sqlite3.Connection, admitted: Sequence[tuple[Offer, int]]) -> None:
    (last,) = db.execute("SELECT coalesce(max(seq), 0) FROM tasks").fetchone()
    now = time.time()
    tasks, payloads = [], []
    grown: dict[tuple[int, int], int] = {}
    for seq, (offer, qid) in enumerate(admitted, last + 1):
        state, due = (DELAYED, now + offer.delay_s) if offer.delay_s > 0 else (WAITING, None)
        tasks.append((seq, offer.task_id, qid, state, offer.priority, due, now))
        payloads.append((seq, offer.payload))
        grown[qid, state] = grown.get((qid, state), 0) + 1
    db.executemany(
        "INSERT INTO tasks (seq, id, qid, state, priority, due, submitted_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        tasks,
    )
    db.executemany("INSERT INTO payloads VALUES (?, ?)", payloads)
    for (qid, state), number in grown.items():
        column = "delayed" if state == DELAYED else "waiting"
        db.execute(f"UPDATE queues SET {column} = {column} + ? WHERE qid = ?", (number, qid))
    _count(db, {"accepted": len(admitted)})


def _depth(db: sqlite3.Connection, target: str, *, ring: bool) -> tuple[int, int]:
    where = "collection = ? AND position IS NOT NULL" if ring else "name = ?"
    depth, bound = db.execute(
        "SELECT coalesce(sum(waiting), 0), coalesce(sum(max_waiting), 0)"
        f" FROM queues WHERE {where}",
        (target,),
    ).fetchone()
    return depth, bound


def _end_lapsed_workers(db: sqlite3.Connection) -> None:
    now = time.monotonic()
    lapsed = db.execute(f"SELECT name FROM workers WHERE {_LAPSED}", (now, now)).fetchall()
    for (name,) in lapsed:
        _end_worker(db, name, crashed=True)


def _end_worker(db: sqlite3.Connection, name: str, *, crashed: bool) -> int:
    """Put back what the worker held, with one crash more each if it crashed."""
    if crashed:
        db.execute(
            "UPDATE tasks SET crashes = crashes + 1, last_chance = (crashes + 2 ="
            " (SELECT max_crashes FROM queues q WHERE q.qid = tasks.qid))"
            " WHERE state = 2 AND worker = ?",
            (name,),
        )
    held = db.execute(
        "SELECT qid, count(*) FROM tasks WHERE state = 2 AND worker = ? GROUP BY qid", (name,)
    ).fetchall()
    db.execute("UPDATE tasks SET state = 0, worker = NULL WHERE state = 2 AND worker = ?", (name,))
    db.executemany(
        "UPDATE queues SET running = running - ?1, waiting = waiting + ?1 WHERE qid = ?2",
        [(number, qid) for qid, number in held],
    )
    db.execute("UPDATE outbox SET taker = NULL WHERE taker = ?", (name,))
    db.execute("DELETE FROM workers WHERE name = ?", (name,))
    return sum(number for _, number in held)


def _is_known(db: sqlite3.Connection, worker: Worker) -> bool:
    found = db.execute("SELECT 1 FROM workers WHERE name = ?", (worker.name,)).fetchone()
    return found is not None


def _wake_delayed(db: sqlite3.Connection) -> None:
    due = db.execute(
        "UPDATE tasks SET state = 0, due = NULL WHERE state = 1 AND due <= ? RETURNING qid",
        (time.time(),),
    ).fetchall()
    db.executemany(
        "UPDATE queues SET delayed = delayed - 1, waiting = waiting + 1 WHERE qid = ?", due
    )


def _claim(db: sqlite3.Connection, worker: Worker, limit: int, held: int | None) -> list[Claim]:
    if not _is_known(db, worker):
        return []  # Its lease lapsed: it learns so from its next extend.
    ready = _ready_queues(db, worker, limit)
    if held is not None:
        limit = min(limit, _even_share(db, len(ready)) - held)
        ready = ready[: max(0, limit)]
    if not ready:
        return []
    (turn,) = db.execute("SELECT coalesce(max(turn), 0) FROM queues").fetchone()
    claims: list[Claim] = []
    for left, (qid, name, room) in enumerate(ready):
        # An equal share for each queue that is ready, the rest for a later claim.
        share = max(1, (limit - len(claims)) // (len(ready) - left))
        claimed = _claim_from(db, worker, qid, name, min(room, share))
        db.execute(
            "UPDATE queues SET waiting = waiting - ?1, running = running + ?1, turn = ?2"
            " WHERE qid = ?3",
            (len(claimed), turn + left + 1, qid),
        )
        claims += claimed
    return claims


def _even_share(db: sqlite3.Connection, ready: int) -> int:
    """What each living worker would have if all that runs and is ready were spread evenly."""
    (workers,) = db.execute("SELECT count(*) FROM workers WHERE slots > 0").fetchone()
    (running,) = db.execute("SELECT count(*) FROM tasks WHERE state = 2").fetchone()
    return int(-(-(running + ready) // max(1, workers)))


def _ready_queues(db: sqlite3.Connection, worker: Worker, limit: int) -> list[tuple[int, str, int]]:
    """Queues of this worker with a task and room for a run, the longest unserved first."""
    rows = db.execute(
        "SELECT qid, name, concurrency - running FROM queues"
        " WHERE waiting > 0 AND running < concurrency ORDER BY turn"
    )
    ready = []
    for row in rows:
        if row[1] in worker.queues:
            ready.append(row)
            if len(ready) == limit:
                break
    return ready


def _claim_from(
    db: sqlite3.Connection, worker: Worker, qid: int, queue: str, limit: int
) -> list[Claim]:
    claims = []
    for seq in _claimable(db, worker, qid, limit):
        row = db.execute(
            "UPDATE tasks SET state = 2, worker = ?, number = number + 1 WHERE seq = ?"
            " RETURNING id, (SELECT body FROM payloads p WHERE p.seq = tasks.seq), number,"
            " failures, crashes, submitted_at",
            (worker.name, seq),
        ).fetchone()
        claims.append(Claim(row[0], queue, row[1], worker.name, *row[2:]))
    return claims


def _claimable(db: sqlite3.Connection, worker: Worker, qid: int, limit: int) -> list[int]:
    """The next tasks of a queue, and at most one in its last chance to a worker."""
    rows = db.execute(
        "SELECT seq, last_chance FROM tasks WHERE qid = ? AND state = 0"
        " AND (last_chance = 0 OR NOT EXISTS"
        " (SELECT 1 FROM tasks l WHERE l.last_chance = 1 AND l.state = 2 AND l.worker = ?))"
        " ORDER BY priority, seq LIMIT ?",
        (qid, worker.name, limit),
    ).fetchall()
    alone = next((seq for seq, last_chance in rows if last_chance), None)
    return [seq for seq, last_chance in rows if not last_chance or seq == alone]


def _settle(db: sqlite3.Connection, settlement: Settlement, changes: Counter[str]) -> bool:
    claim = settlement.claim
    row = db.execute(
        "SELECT seq, qid FROM tasks WHERE id = ? AND state = 2 AND worker = ? AND number = ?",
        (claim.task_id, claim.worker, claim.number),
    ).fetchone()
    if row is None:
        return False
    seq, qid = row
    db.execute("UPDATE queues SET running = running - 1 WHERE qid = ?", (qid,))
    if settlement.action == "release":
        db.execute("UPDATE tasks SET state = 0, worker = NULL WHERE seq = ?", (seq,))
        db.execute("UPDATE queues SET waiting = waiting + 1 WHERE qid = ?", (qid,))
    elif settlement.action == "retry":
        db.execute(
            "UPDATE tasks SET state = 1, worker = NULL, failures = failures + 1, due = ?"
            " WHERE seq = ?",
            (time.time() + settlement.delay_s, seq),
        )
        db.execute("UPDATE queues SET delayed = delayed + 1 WHERE qid = ?", (qid,))
    else:
        if settlement.action == "bury":
            _bury(db, seq, qid, settlement)
        _put_in_outbox(db, seq, claim.task_id, settlement.result)
        changes.update(_gains(settlement.result, settlement.outcome))
    return True


def _bury(db: sqlite3.Connection, seq: int, qid: int, settlement: Settlement) -> None:
    db.execute(
        "INSERT OR REPLACE INTO dead SELECT ?, q.name, q.collection, p.body, ?, ?, ?, ?"
        " FROM queues q, payloads p WHERE q.qid = ? AND p.seq = ?",
        (
            settlement.claim.task_id,
            settlement.result,
            settlement.outcome,
            settlement.reason,
            time.time(),
            qid,
            seq,
        ),
    )


def _put_in_outbox(db: sqlite3.Connection, seq: int, task_id: str, result: bytes) -> None:
    """The task's end: its payload goes, its id stays for the retention time."""
    db.execute(
        "UPDATE tasks SET state = 3, worker = NULL, due = NULL, settled_at = ? WHERE seq = ?",
        (time.time(), seq),
    )
    db.execute("DELETE FROM payloads WHERE seq = ?", (seq,))
    number = db.execute(
        "INSERT INTO outbox (task_id, bytes) VALUES (?, ?)", (task_id, len(result))
    ).lastrowid
    db.execute("INSERT INTO outbox_bodies VALUES (?, ?)", (number, result))


def _gains(result: bytes, outcome: str) -> dict[str, int]:
    return {"outbox": 1, "outbox_bytes": len(result), f"outcome:{outcome}": 1}


def _answer_unclaimed(db: sqlite3.Connection, answer: Answer, changes: Counter[str]) -> bool:
    row = db.execute(
        "SELECT seq, qid, state FROM tasks WHERE id = ? AND state IN (0, 1)", (answer.task_id,)
    ).fetchone()
    if row is None:
        return False
    seq, qid, state = row
    column = "waiting" if state == WAITING else "delayed"
    db.execute(f"UPDATE queues SET {column} = {column} - 1 WHERE qid = ?", (qid,))
    _put_in_outbox(db, seq, answer.task_id, answer.result)
    changes.update(_gains(answer.result, answer.outcome))
    return True


def _within(rows: Iterable[tuple[int, str, int]], max_bytes: int) -> Iterable[tuple[int, str]]:
    """The first rows that fit into ``max_bytes`` together, and at least one."""
    total = 0
    for seq, task_id, size in rows:
        if total and total + size > max_bytes:
            return
        total += size
        yield seq, task_id


def _outbox_body(db: sqlite3.Connection, seq: int) -> bytes:
    (body,) = db.execute("SELECT body FROM outbox_bodies WHERE seq = ?", (seq,)).fetchone()
    return bytes(body)


def _seen(row: tuple[str, str, int, int, float, int]) -> WorkerSeen:
    name, host, pid, slots, beat, running = row
    return WorkerSeen(name, host, pid, slots, running, max(0.0, time.monotonic() - beat))
