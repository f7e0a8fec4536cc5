"""Serving: one joined worker, the agents it serves, and what it has claimed."""

from __future__ import annotations

import asyncio
import base64
import itertools
import logging
import time
import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import compress
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.brokers.rabbitmq.crew import Member, share_of
from agentpipe.brokers.rabbitmq.names import Message, make_delays
from agentpipe.brokers.rabbitmq.post import Gate, Held, Post, Prefetched, in_last_chance
from agentpipe.brokers.rabbitmq.roster import Roster, note_of_hold
from agentpipe.brokers.rabbitmq.tallies import Tallies
from agentpipe.brokers.records import Claim
from agentpipe.connections.amqp.channel import Lost

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Mapping, Sequence

    from agentpipe.brokers.rabbitmq.bell import Bell
    from agentpipe.brokers.rabbitmq.desk import Desk
    from agentpipe.brokers.records import Settlement, Worker
    from agentpipe.connections.amqp.channel import Delivery
    from agentpipe.connections.amqp.message import Declaration, Letter

TICK_S = 1.0
# An agent that should be ours is another's still.
RETRY_S = 0.1
# So many agents are taken over at once.
PORTION = 50
# Who has not heard of a worker hears of it so late at the latest.
TELL_EVERY_S = 10.0
# After the connection was lost, all workers have so long to come back to what they ran.
REUNION_S = 5.0
# What an operator wants to take back is left to him for so long.
YIELD_S = 1.0
# A task in its last chance that may not run beside another one comes again after so long.
APART_S = 2.0

log = logging.getLogger(__name__)


class Serving:
    """What one worker does on one connection; a new connection needs a new one.

    An agent is served by one worker at a time, which holds its lock; agents that share a gate are
    served by the same one, under one lock, so that it alone has to count what runs of them. They
    change hands together, once nothing runs of any of them. Deliveries are bounded by the agent's
    concurrency, per queue that it takes them from.

    From an agent that is held nothing is consumed: its tasks lie on the server. All workers hear
    of a hold, and newcomers from them, so that it outlives the worker whose run brought it about.
    It is forgotten when the last worker ends.
    """

    def __init__(self, desk: Desk, worker: Worker, bell: Bell) -> None:
        self.worker = worker
        self.bell, self.ring = bell, bell.ring
        self._desk, self._names = desk, desk.names
        self._posts: dict[str, Post] = {}
        self._gates: dict[str, Gate] = {}
        self._turns: dict[str, None] = {}
        self._held: dict[int, Held] = {}
        self._roster = Roster(
            desk.names,
            me=self.member,
            account=self.account,
            changed=self.look_again,
            registry_changed=desk.has_changed,
            held=desk.hear_of_hold,
            cancelled=self._end,
            asked=self._asked,
            begin=self._begin,
        )
        self._numbers = itertools.count(time.time_ns())
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stewarding: asyncio.Task[None] | None = None
        self._probe_at = self._tell_at = 0.0
        self._balanced = False
        self._moving = 0
        self._replacing = Counter[str]()
        self._recounting: dict[str, list[tuple[Post, Prefetched]]] = {}
        self._awaited: dict[str, Held] = {}
        self._was_ready: set[str] = set()
        self._reunion_ends = 0.0
        self._isolating: asyncio.Task[None] | None = None
        self._settling = asyncio.Lock()
        self._gone = False
        self._tallies, self._report = Tallies(), b""
        self.extend()

    @property
    def is_alive(self) -> bool:
        """Whether its claims still count."""
        now = time.monotonic()
        strayed = self._awaited and now >= self._reunion_ends
        return not (self._gone or strayed) and self._channel.is_open and now < self._lapses_at

    def extend(self, report: bytes | None = None) -> None:
        """Renew the lease."""
        self._heard_at = time.monotonic()
        self._lapses_at = self._heard_at + self.worker.lease_s
        self._report = self._report if report is None else report

    def inherit(self, earlier: Serving) -> None:
        """Go on with what ran when the connection was lost, once it is delivered here again.

        The others are thought to come back, too, so that each is delivered its own.
        """
        held = {each.claim.task_id: each for each in earlier._held.values()}
        self._awaited = {**earlier._awaited, **held}
        self._was_ready = {
            each.message.task_id for post in earlier._posts.values() for each in post.ready
        }
        self._roster.members, self._lapses_at = earlier._roster.members, earlier._lapses_at
        self._tallies, self._report = earlier._tallies, earlier._report
        self._reunion_ends = time.monotonic() + REUNION_S

    async def open(self) -> None:
        """Tell the others, and begin to take over agents."""
        self._channel = await self._desk.channel(self.ring)
        if self.worker.queues:
            await self._desk.make_delays()
            await self._desk.introduce(self.worker.queues)
        await self._roster.open(self._channel)
        # From here on it hears of changes: what was changed before is read.
        await self._desk.registry.read(0)
        await self._desk.marks.read()
        self._stewarding = self._begin(self._steward())

    def member(self) -> Member:
        """What there is to tell."""
        return Member(
            self.worker.name,
            self._roster.address,
            self.worker.host,
            self.worker.pid,
            self.worker.slots,
            self.worker.queues,
            frozenset(self._posts),
            {name: post.running for name, post in self._posts.items() if post.running},
            {name: len(post.ready) for name, post in self._posts.items() if post.ready},
            self._desk.outbox.lent_to(self.worker.name),
            len(self._roster.members) + 1,
            self._desk.holds.all(),
        )

    def account(self) -> dict[str, Any]:
        """What it tells of its work when it is asked."""
        return {**self._told_last(), **self._tallies.told()}

    def _told_last(self) -> dict[str, Any]:
        return {"report": self._report.decode(), "heard_s": time.monotonic() - self._heard_at}

    # Which agents it serves.

    def look_again(self) -> None:
        """Limits or queues have changed."""
        self._changed.set()

    async def _steward(self) -> None:
        tick_s = min(TICK_S, self.worker.lease_s / 4)
        self._changed.set()
        while self.is_alive:
            try:
                await self._look_after()
            except Lost as error:
                if self._channel.is_open:
                    log.warning("worker %s cannot take over agents: %s", self.worker.name, error)
            except Exception:  # A steward that ends leaves its agents to nobody.
                log.exception("a worker's steward met a bug of agentpipe's; it goes on")
            with suppress(TimeoutError):
                pause_s = tick_s if self._balanced else min(tick_s, RETRY_S)
                await asyncio.wait_for(self._changed.wait(), pause_s)
        if self._channel.is_open:  # Else whoever comes after it goes on with what it held.
            await self._desk.lapse(self)

    async def _look_after(self) -> None:
        now = time.monotonic()
        if now >= max(self._probe_at, self._reunion_ends):
            self._probe_at = now + TICK_S
            await self._roster.probe()
        if self._changed.is_set() or not self._balanced:
            self._changed.clear()
            if await self._balance():
                self._tell_at = 0.0
        if now >= self._tell_at:
            self._tell_at = now + TELL_EVERY_S
            await self._roster.tell()

    async def _balance(self) -> bool:
        """Take and leave agents; whether there is something to tell."""
        self._end_isolation()
        unit_of, others = self._desk.unit_of, self._roster.members.values()
        share = share_of(self.worker.name, [*others, self.member()], unit_of)
        theirs = {unit_of(name) for member in others for name in member.owned}
        before, left = set(self._posts), set[str]()
        missing = sorted(share - self._posts.keys())
        wanted = [name for name in missing if unit_of(name) not in theirs]
        for first in range(0, len(wanted), PORTION):
            if not self.is_alive:
                return False
            await self._take(wanted[first : first + PORTION])
        for name, post in list(self._posts.items()):
            post.leaving = name not in share or post.unit != unit_of(name)
            if not post.leaving:
                await self._adjust(post)
                continue
            await self._withdraw(post)
            if not post.running:
                del self._posts[name]
                left.add(post.unit)
                if post.gate is not None:
                    post.gate.posts.pop(name, None)
        await self._leave_units(left)
        self._balanced = set(self._posts) == share
        return before != set(self._posts)

    async def _take(self, names: Sequence[str]) -> None:
        units = {name: self._desk.unit_of(name) for name in names}
        locked = set(await self._desk.lock(list(dict.fromkeys(units.values())), self))
        for name, unit in units.items():
            if unit not in locked:
                continue
            post = Post(self._desk.limits(name), unit, self._gate(name, unit))
            post.running = sum(it.claim.queue == name for it in self._awaited.values())
            self._posts[name] = post
            if post.gate is not None:
                post.gate.posts[name] = post
            await self._adjust(post)
            self.ring()

    async def _leave_units(self, units: set[str]) -> None:
        """Let others serve those of which nothing is served here any more."""
        units -= {post.unit for post in self._posts.values()}
        for unit in units:
            self._gates.pop(unit, None)
        if units:
            await self._desk.unlock(units)

    def _gate(self, name: str, unit: str) -> Gate | None:
        """What the agent shares with others, all of whom are served here or by nobody."""
        limits = self._desk.limits(name)
        if limits.concurrency_group is None:
            return None
        if unit not in self._gates:
            claims = [it.claim.queue for it in self._awaited.values()]
            running = sum(self._desk.unit_of(queue) == unit for queue in claims)
            self._gates[unit] = Gate(limits.concurrency_group_limit, running)
        return self._gates[unit]

    async def _adjust(self, post: Post) -> None:
        """Consume from all queues in which tasks of this agent may wait, within its limits."""
        limits = self._desk.limits(post.queue.name)
        if limits.concurrency != post.queue.concurrency:
            await self._stop(post)
        post.queue = limits
        if post.gate is not None and post.gate.limit != limits.concurrency_group_limit:
            post.gate.limit = limits.concurrency_group_limit
            self._reopen(post.gate)
        if not self._is_left_alone(post):
            await self._consume(post)
        if self._is_left_alone(post):  # Perhaps since a moment ago only.
            await self._withdraw(post)
        if post.ready:
            self._turns[post.queue.name] = None

    def _is_left_alone(self, post: Post) -> bool:
        yields = time.monotonic() < post.yields_until
        return yields or self._desk.is_left_alone(post.queue.name)

    async def _consume(self, post: Post) -> None:
        back, *waiting = self._desk.sources(post.queue)
        for source in waiting if self._isolating else [back, *waiting]:
            if source.name not in post.consumers:
                self._channel.ensure(source)
                post.consumers[source.name] = await self._channel.consume(
                    source.name,
                    post.queue.concurrency,
                    partial(self._receive, post),
                    partial(self._bereft, post, source.name),
                )

    def _bereft(self, post: Post, source: str) -> None:
        """Somebody has deleted a queue: it is made again."""
        log.warning("queue %s was deleted under worker %s: made again", source, self.worker.name)
        post.consumers.pop(source, None)
        self._changed.set()

    async def _stop(self, post: Post) -> None:
        consumers, post.consumers = list(post.consumers.values()), {}
        await self._channel.cancel(consumers)

    async def _withdraw(self, post: Post) -> None:
        """Take nothing more for this agent, and give back what nobody has claimed."""
        await self._stop(post)
        unclaimed = list(post.ready)
        post.ready.clear()
        await self._put_back(unclaimed)

    # Tasks.

    def _receive(self, post: Post, delivery: Delivery) -> None:
        fallback = f"foreign-{uuid.uuid4().hex}"
        message = Message.read(post.queue.name, delivery.body, delivery.headers, fallback)
        prefetched = Prefetched(message, delivery.tag)
        if message.task_id in self._awaited:
            self._go_on(post, prefetched)
        elif delivery.redelivered and message.task_id not in self._was_ready:
            self._begin(self._recount(prefetched))
        elif message.task_id in self._recounting:
            self._recounting[message.task_id].append((post, prefetched))
        else:
            self._admit(post, prefetched)

    def _go_on(self, post: Post, prefetched: Prefetched) -> None:
        """It runs here still: the claim is the same, only the delivery is another one."""
        before = self._awaited.pop(prefetched.message.task_id)
        again = replace(before, message=prefetched.message, tag=prefetched.tag, post=post)
        self._held[before.claim.number] = again

    async def _recount(self, lost: Prefetched) -> None:
        """A claim ended with its worker: put a copy with one crash more in the task's place.

        The copy may be here before its original is gone. If it ran at once and killed this
        worker, too, there would be two of them; so it waits.
        """
        message = lost.message.crashed()
        arrived = self._recounting.setdefault(message.task_id, [])
        try:
            await self._replace([(message.to(self._names.back(message.queue)), lost.tag)])
            await self._channel.catch_up()
        finally:
            self._recounting.pop(message.task_id, None)
        for post, prefetched in arrived:
            self._admit(post, prefetched)

    def _admit(self, post: Post, prefetched: Prefetched) -> None:
        if self._gone or post.leaving or self._is_left_alone(post):
            self._begin(self._put_back([prefetched]))
        elif in_last_chance(prefetched.message, post) and self._has_one_in_last_chance():
            self._begin(self._keep_apart(prefetched))
        else:
            post.ready.append(prefetched)
            self._turns[post.queue.name] = None
            self.ring()

    def claim(self, limit: int) -> list[Claim]:
        """Up to ``limit`` tasks, one of each agent in turn."""
        claims: list[Claim] = []
        waiting: dict[str, None] = {}
        while len(claims) < limit and self._turns and self.is_alive:
            name = next(iter(self._turns))
            del self._turns[name]
            post = self._whose_turn(name)
            if post is None:
                continue
            if in_last_chance(post.ready[0].message, post) and not self._is_isolated():
                waiting[name] = None
                continue
            claims.append(self._claim(post, post.ready.popleft()))
            self._give_turns([self._posts[name], post])
        self._turns.update(waiting)
        return claims

    def _whose_turn(self, name: str) -> Post | None:
        """The agent, or that of its gate which was served longest ago; nobody without room."""
        post = self._posts.get(name)
        if post is None or not post.has_room:
            return None
        if post.gate is None:
            return post
        return next(iter(post.gate.ready()), None)

    def _give_turns(self, posts: Iterable[Post]) -> None:
        for post in posts:
            if post.has_room:
                self._turns[post.queue.name] = None

    def _claim(self, post: Post, prefetched: Prefetched) -> Claim:
        message = prefetched.message
        claim = Claim(
            message.task_id,
            post.queue.name,
            message.payload,
            self.worker.name,
            next(self._numbers),
            message.failures,
            message.crashes,
            message.submitted_ms / 1000,
            message in self._desk.marks,
        )
        self._held[claim.number] = Held(claim, message, prefetched.tag, post, time.time())
        post.count(1)
        post.served = claim.number
        return claim

    def _has_one_in_last_chance(self) -> bool:
        ready = ((each.message, post) for post in self._posts.values() for each in post.ready)
        held = ((each.message, each.post) for each in self._held.values())
        return any(in_last_chance(message, post) for message, post in (*ready, *held))

    async def _keep_apart(self, prefetched: Prefetched) -> None:
        """Have it delivered again later: two in their last chance must not die together."""
        self._moving += 1
        try:
            later = prefetched.message.delayed(self._names, APART_S)
            await self._replace([(later, prefetched.tag)])
        finally:
            self._moving -= 1
            self.ring()

    def _is_isolated(self) -> bool:
        """Whether nothing that one crash more would kill can be delivered now; sees to it."""
        if self._isolating is None:
            self._isolating = self._begin(self._isolate())
        return self._isolating.done() and not self._moving

    async def _isolate(self) -> None:
        """Take no returned tasks: no others have crashed before."""
        consumers = []
        for post in self._posts.values():
            consumer = post.consumers.pop(self._back(post).name, None)
            consumers += [consumer] if consumer else []
        await self._channel.cancel(consumers)
        self.ring()

    def _end_isolation(self) -> None:
        if self._isolating is not None and not self._has_one_in_last_chance():
            self._isolating = None
            self._changed.set()

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """Publish what follows from each, have it confirmed, and only then acknowledge."""
        async with self._settling:
            return await self._settle(settlements)

    async def _settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        if not self._desk.session.is_open:  # Whoever goes on with what it holds shall settle it.
            raise Lost("it ended before that was settled")
        if self.is_alive and any(each.claim.task_id in self._awaited for each in settlements):
            raise Lost("what was running has not been delivered again yet")
        found: dict[int, Held] = {}
        done: list[bool] = []
        letters: list[Letter] = []
        held_posts: list[Post] = []
        for settlement in settlements:
            number = settlement.claim.number
            held = self._held.get(number) if self.is_alive and number not in found else None
            done.append(held is not None and held.claim.task_id == settlement.claim.task_id)
            if held is not None and done[-1]:
                found[number] = held
                letters += self._consequences(settlement, held)
                if settlement.action == "cooldown" and settlement.delay_s > 0:
                    held_posts.append(held.post)
                    letters.append(self._hold(held.post, settlement.delay_s))
        for post in held_posts:  # First, so that what was held is not delivered at once again.
            await self._stop(post)
        await self._publish(letters)
        self._desk.outbox.has_put(letters)
        self._tallies.add(compress(settlements, done))
        for number, held in found.items():
            self._channel.ack(held.tag)
            self._let_go(number)
        for post in held_posts:
            await self._withdraw(post)
        return done

    def _hold(self, post: Post, hold_s: float) -> Letter:
        """Leave the agent alone, and tell the others."""
        name = post.queue.name
        self._desk.holds.begin(name, hold_s)
        self._desk.look_after_hold(name)
        return note_of_hold(name, hold_s, self._names.crew)

    def _consequences(self, settlement: Settlement, held: Held) -> list[Letter]:
        if settlement.action in ("release", "cooldown"):
            return [held.message.noting(settlement.reason).to(self._back(held.post))]
        if settlement.action == "retry":
            failed = held.message.failed(settlement.reason)
            if settlement.delay_s <= 0 or held.message in self._desk.marks:
                return [failed.to(self._back(held.post))]
            return [failed.delayed(self._names, settlement.delay_s)]
        held.post.note_run_s(time.time() - held.since)
        letters = [self._desk.outbox.letter(held.claim.task_id, settlement.result)]
        if settlement.action == "bury":
            letters.append(self._desk.dead.letter(settlement, held.post.queue.collection))
        return letters

    def _let_go(self, number: int) -> None:
        held = self._held.pop(number, None)
        if held is None:
            return
        held.post.count(-1)
        self._give_turns([held.post])
        if held.post.gate is not None:
            self._reopen(held.post.gate)
        if held.post.leaving:
            self._changed.set()
        self._end_isolation()

    def _reopen(self, gate: Gate) -> None:
        """Give those behind it their turns, which they lost if they had them while it was full."""
        if ready := gate.ready():
            self._give_turns(ready)
            self.ring()

    # What it is asked.

    async def _asked(self, question: Mapping[str, Any]) -> bytes:
        """The answer to what an operator wants to know or to have done."""
        if question["kind"] == "lent":
            me = self.member()
            return orjson.dumps({"known": me.known, "lent": me.lent})
        if question["kind"] == "cancel":
            return self.member().encode(**await self._cancel(set(question["ids"])))
        if question["kind"] == "yield":
            await self._yield(set(question["queues"]))
            return self.member().encode()
        if question["kind"] == "claims":
            return self.member().encode(claims=[self._shown(each) for each in self._held.values()])
        return self.member().encode(**self._where(question["id"]))

    async def _cancel(self, task_ids: set[str]) -> dict[str, Any]:
        """Have those end that run here, and put back those that nobody has claimed."""
        runs = {it.message.task_id: it.message.submitted_ms for it in self._runs()}
        running = {task_id: runs[task_id] for task_id in task_ids & runs.keys()}
        self._end(running)
        waiting = task_ids & self._replacing.keys()
        ready = {
            it.message.task_id: name for name, post in self._posts.items() for it in post.ready
        }
        waiting |= task_ids & ready.keys()
        await self._yield({ready[task_id] for task_id in task_ids & ready.keys()})
        return {"running": running, "waiting": sorted(waiting)}

    def _runs(self) -> list[Held]:
        """What was claimed, also while its delivery is awaited anew."""
        return [*self._held.values(), *self._awaited.values()]

    def _end(self, sent_ms: Mapping[str, int]) -> None:
        """Have these tasks end where they run here, and begin none of them."""
        self._desk.marks.hear(sent_ms)
        runs = (it.message for it in self._runs() if it.message.task_id in sent_ms)
        self.bell.tell([message.task_id for message in runs if message in self._desk.marks])

    async def _yield(self, queues: set[str]) -> None:
        """Leave what waits for these agents to an operator, for a moment."""
        for name in queues & self._posts.keys():
            post = self._posts[name]
            post.yields_until = time.monotonic() + YIELD_S
            await self._withdraw(post)
        if queues:
            asyncio.get_running_loop().call_later(YIELD_S, self.look_again)

    def _shown(self, held: Held) -> list[str]:
        """As JSON can hold it."""
        message = held.message
        payload = base64.b64encode(message.payload).decode()
        return [message.task_id, message.queue, payload, str(message.submitted_ms / 1000)]

    def _where(self, task_id: str) -> dict[str, Any]:
        """What it knows of a task, and of the agents that it serves."""
        known = [(it.message, it.post, it.since) for it in self._held.values()]
        ready = [(it.message, post, None) for post in self._posts.values() for it in post.ready]
        mine = [each for each in (*known, *ready) if each[0].task_id == task_id]
        runs = [[it.claim.task_id, it.claim.queue, it.since] for it in self._held.values()]
        run_s = {name: post.run_s for name, post in self._posts.items() if post.run_s is not None}
        marks = self._desk.marks
        found = [{**it.told(since), "cancelled": it in marks} for it, _, since in mine]
        return {"found": found, "runs": runs, "run_s": run_s, **self._told_last()}

    # How it ends.

    async def leave(self) -> int:
        """Give everything back uncounted; returns how many claims."""
        claims = len(self._held) if self.is_alive else 0
        await self._dismiss_steward()
        with suppress(Lost):
            async with self._settling:  # What is being settled is not given back as well.
                await self._give_back()
        await self.close()
        return claims

    async def _give_back(self) -> None:
        consumers = [it for post in self._posts.values() for it in post.consumers.values()]
        await self._channel.cancel(consumers)
        unclaimed = [each for post in self._posts.values() for each in post.ready]
        held = [Prefetched(each.message, each.tag) for each in self._held.values()]
        await self._put_back([*held, *unclaimed])
        # What is not acknowledged by the end would come twice.
        if others := self._tasks - {self._stewarding}:
            await asyncio.wait(others, timeout=TICK_S)
        await self._channel.catch_up()

    async def close(self) -> None:
        """End it as it is: what it holds counts a crash when it is delivered again."""
        await self._dismiss_steward()
        self._channel.close()
        self._held.clear()
        self._posts.clear()
        with suppress(Lost):
            await self._desk.unlock_all(self)
            await self._desk.say_goodbye(self.worker.name, self._roster.address)

    async def _dismiss_steward(self) -> None:
        """From now on nobody changes the posts."""
        self._gone = True
        if self._stewarding is not None and self._stewarding is not asyncio.current_task():
            self._stewarding.cancel()
            await asyncio.wait([self._stewarding])

    # Publishing.

    def _back(self, post: Post) -> Declaration:
        return self._names.back(post.queue.name)

    async def _put_back(self, prefetched: Iterable[Prefetched]) -> None:
        """As if they had never been delivered: a copy first, for a requeued one looks crashed."""
        pairs = [(it.message.to(self._names.back(it.message.queue)), it.tag) for it in prefetched]
        await self._replace(pairs)

    async def _replace(self, pairs: Sequence[tuple[Letter, int]]) -> None:
        """Publish each letter in the place of the delivery it stands for."""
        ids = [str(letter.headers["agentpipe-id"]) for letter, _ in pairs]
        self._replacing.update(ids)
        try:
            await self._publish([letter for letter, _ in pairs])
            for _, tag in pairs:
                self._channel.ack(tag)
        finally:
            self._replacing -= Counter(ids)

    async def _publish(self, letters: Sequence[Letter]) -> None:
        """All of them; a queue that somebody has deleted is made again."""
        fates = await self._channel.publish(letters)
        lost = [letter for letter, fate in zip(letters, fates, strict=True) if fate != "taken"]
        lasting = [letter for letter in lost if letter.lasting]
        if lasting:
            for letter in lasting:
                await self._channel.declare(self._names.unbounded(letter.key))
            if any(letter.exchange for letter in lasting):
                await make_delays(self._channel, self._names)
            if set(await self._channel.publish(lasting)) != {"taken"}:
                raise Lost("the server refuses to store tasks or results")

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(_until_lost(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _until_lost(work: Coroutine[Any, Any, None]) -> None:
    with suppress(Lost):
        await work
