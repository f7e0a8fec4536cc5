"""RedisStore: a store on one Redis server, for workers on many machines.

Every operation is one Lua script that handles a batch of ids, so it is atomic and costs one round
trip; a transaction stores the payloads of a large send beside it. What concerns many agents,
running tasks or parked tasks takes several calls, because a script stops the server for everyone.
All keys of a store begin with ``{prefix}:``; the braces are a cluster hash tag, which keeps the
keys on one node.
Leases use the server's clock.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.base import Store
from agentpipe.brokers.redis import offering
from agentpipe.brokers.redis.address import parse_url
from agentpipe.brokers.redis.asking import Asking
from agentpipe.brokers.redis.comparing import Comparing
from agentpipe.brokers.redis.declaring import QUEUES_AT_ONCE, declarations
from agentpipe.brokers.redis.decoding import as_outbox, as_stats
from agentpipe.brokers.redis.ending import end_worker
from agentpipe.brokers.redis.letters import DEAD, UNDELIVERABLE, RedisLetters
from agentpipe.brokers.redis.notifications import Subscription
from agentpipe.brokers.redis.offering import PackedOffers, admission_of, bounded_priority
from agentpipe.brokers.redis.operations import RedisOperations, hold_args
from agentpipe.brokers.redis.script_runner import ScriptRunner
from agentpipe.brokers.redis.settlement_args import cooldowns_apart
from agentpipe.brokers.redis.worker_requests import WorkerRequests
from agentpipe.brokers.statistics import RECENT_S, Stats
from agentpipe.core.closing import closed_on_error
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
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
    from agentpipe.brokers.redis.packing import Argument
    from agentpipe.connections.scratch import Scratch
    from agentpipe.core.loop_holds import LoopHold
    from agentpipe.settings import Settings

LAYOUT = 3
# Layout of a store that has held groups: versions that know only layout 3 do not count members.
GROUPS_LAYOUT = 4
_KNOWN_LAYOUTS = tuple(b"%d" % layout for layout in (LAYOUT, GROUPS_LAYOUT))
# How often a snapshot is read again that shows none of the tasks that are there.
STATS_READS = 3

log = logging.getLogger(__name__)


class RedisStore(RedisOperations, Store):
    """The ``Store`` for ``redis://host``; see ``Store`` for the contract of each operation.

    A request without a reply is repeated under its number, either immediately or by the next call
    with the same content, and gets the first attempt's reply: nothing is lost or done twice.
    """

    def __init__(self, url: str, settings: Settings) -> None:
        self._scripts = ScriptRunner(parse_url(url))
        self._subscription = Subscription(self._scripts, lambda: self._scripts.run("cancelled"))
        self._asking, self._comparing = Asking(self._scripts), Comparing(self._scripts)
        self._requests = WorkerRequests(self._asking, settings.retention_s)
        self._declared: dict[str, Queue] = {}
        self._dead = RedisLetters(self._scripts, DEAD, self._drop_letters)
        self.undeliverable = RedisLetters(self._scripts, UNDELIVERABLE, self._drop_letters)
        with closed_on_error(self):
            self._check_layout()

    @staticmethod
    def scratch(url: str, name: str) -> Scratch:
        """See ``MakesScratch``."""
        from agentpipe.brokers.redis.scratch import scratch_of

        return scratch_of(url, name)

    @staticmethod
    def scaler_trigger(url: str, address: str, tasks: int) -> dict[str, Any]:
        """See ``TellsScaler``."""
        from agentpipe.brokers.redis.scaling import trigger_of

        return trigger_of(url, address, tasks)

    def _check_layout(self) -> None:
        found = self._scripts.call("HGET", self._scripts.key, "layout")
        if found is not None and found not in _KNOWN_LAYOUTS:
            raise ConfigError(
                f"{self._scripts.address.url} has layout {found.decode(errors='replace')}, this "
                f"agentpipe knows {LAYOUT} and {GROUPS_LAYOUT}: use the version that made it, or "
                "another prefix"
            )

    def declare(self, queues: Sequence[Queue]) -> None:
        rings = {queue.collection for queue in queues if queue.collection is not None}
        kept = {
            name: queue
            for name, queue in self._declared.items()
            if queue.collection not in rings and name not in {queue.name for queue in queues}
        }
        self._declared = {**kept, **{queue.name: queue for queue in queues}}
        self._declare(queues, only_new=False)

    def _declare(self, queues: Collection[Queue], *, only_new: bool) -> int:
        """Declare the queues, part by part; returns how many were unknown."""
        total = changes = 0
        for args in declarations(queues):
            more = b"1"
            while more:
                new, more, changes = self._scripts.run("declare", LAYOUT, int(only_new), *args)
                total += new
        self._apply_changes(changes)
        return total

    def _declare_again(self) -> bool:
        """Declare the queues again if the server lost them; returns whether it did."""
        known = self._declared.values()
        if not self._declare(known, only_new=True):
            return False
        log.warning("%s was emptied: declaring the queues again", self._scripts.address.url)
        return True

    def offer(self, target: str, offers: Sequence[Offer], *, round_robin: bool) -> Admission:
        return self._offer(target, offers, round_robin=round_robin)

    def pack(self, offers: Sequence[Offer]) -> Sequence[Offer]:
        return PackedOffers(offers)

    def offer_at_pace(
        self, target: str, offers: Sequence[Offer], *, round_robin: bool, pace: OfferPace
    ) -> Admission:
        return self._offer(target, offers, round_robin=round_robin, sent=pace.end)

    def _offer(
        self,
        target: str,
        offers: Sequence[Offer],
        *,
        round_robin: bool,
        sent: Callable[[], None] | None = None,
    ) -> Admission:
        ask = partial(offering.offer, self._asking, target, offers, round_robin=round_robin)
        admission = ask(sent=sent)
        if "refused" in admission.verdicts and not admission.bound and self._declare_again():
            return ask()
        return admission

    def offer_groups(
        self, target: str, groups: Sequence[Group], hold: LoopHold | None = None
    ) -> Admission:
        admission = self._offer_groups(target, groups, hold)
        if "refused" in admission.verdicts and not admission.bound and self._declare_again():
            return self._offer_groups(target, groups, hold)
        return admission

    def _offer_groups(
        self, target: str, groups: Sequence[Group], hold: LoopHold | None
    ) -> Admission:
        args: list[Argument] = [target, GROUPS_LAYOUT, *hold_args(hold)]
        for group in groups:
            args += (group.group_id, group.need, group.repairs, len(group.offers))
            for offer in group.offers:
                args += (offer.task_id, offer.payload, bounded_priority(offer))
        what = (target, tuple(group.group_id for group in groups))
        answer = self._asking.ask("offer_groups", what, *args)
        self._refuse_others(hold, answer)
        return admission_of(answer)

    def join(self, worker: Worker) -> None:
        self._declare_again()
        while not self._join(worker):
            pass
        self._subscription.workers |= {worker.name}

    def _join(self, worker: Worker) -> bool:
        """Register a worker; False if its queues' names were removed meanwhile."""
        queues, digest = sorted(worker.queues), worker.queues_digest.hex()
        while len(queues) > QUEUES_AT_ONCE:
            self._scripts.run("serve", digest, *queues[-QUEUES_AT_ONCE:])
            del queues[-QUEUES_AT_ONCE:]
        seen = (worker.name, worker.host, worker.pid, worker.slots, worker.lease_s)
        total = len(worker.queues)
        return bool(self._scripts.run("join", *seen, digest, total, *queues))

    def heartbeat(self, worker: Worker, report: bytes | None = None) -> bool:
        reported = () if report is None else (report,)
        return bool(self._scripts.run("heartbeat", worker.name, worker.lease_s, *reported))

    @property
    def in_doubt(self) -> bool:
        return self._comparing.in_doubt

    def compare(
        self,
        worker: Worker,
        held: Collection[tuple[str, int]],
        forwarding: Collection[int] | None,
    ) -> Comparison:
        return self._comparing.compare(worker.name, held, forwarding)

    def leave(self, worker: Worker) -> int:
        held = end_worker(self._scripts, worker.name)
        self._subscription.workers -= {worker.name}
        return held

    def bury(self, worker: Worker, begun: Sequence[str]) -> None:
        end_worker(self._scripts, worker.name, begun)

    def claim(self, request: ClaimRequest) -> list[Claim]:
        return self._requests.claim(request)

    def wait(self, timeout_s: float) -> None:
        self._subscription.wait(timeout_s)

    def take_cancelled(self) -> set[str]:
        return self._subscription.take_cancelled()

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        self._begin_cooldowns(settlements)
        return self._requests.settle(settlements)

    def settle_and_claim(
        self, settlements: Sequence[Settlement], request: ClaimRequest
    ) -> tuple[list[bool], list[Claim] | None]:
        self._begin_cooldowns(settlements)
        return self._requests.settle_and_claim(settlements, request)

    def _begin_cooldowns(self, settlements: Sequence[Settlement]) -> None:
        for delay_s, names in cooldowns_apart(settlements):
            self._scripts.run("hold", delay_s, *names)

    def take_tripped(self) -> list[Tripped]:
        return self._requests.take_tripped()

    def take_outbox(self, worker: Worker, limit: int, max_bytes: int) -> list[OutboxRecord]:
        name = worker.name
        with self._asking.asked("take_outbox", name, name, limit, max_bytes) as entries:
            numbers = [entry.partition(b" ")[0] for entry in entries]
            results = f"{self._scripts.base}:results"
            payloads = self._scripts.call("HMGET", results, *numbers) if numbers else []
        return as_outbox(entries, payloads)

    def drop_outbox(self, worker: Worker, numbers: Sequence[int]) -> None:
        self._scripts.run("drop_outbox", worker.name, *numbers)

    def return_outbox(self, worker: Worker, numbers: Sequence[int]) -> None:
        self._scripts.run("return_outbox", worker.name, *numbers)

    def stats(self) -> Stats:
        """See ``Store.stats``. The queues of a large store are read part by part."""
        for _ in range(STATS_READS):
            pages, rest, unsettled = self._read_stats()
            stats = as_stats(pages, rest)
            # A task can move from a part that is read later to one that was read before.
            if len(pages) == 1 or not unsettled or stats.waiting or stats.delayed or stats.running:
                break
        return stats

    def _read_stats(self) -> tuple[list[tuple[bytes, bytes]], list[Any], int]:
        """Read all parts; returns them, the other values, and the number of unsettled tasks."""
        pages, cursor, rest = list[tuple[bytes, bytes]](), b"0", list[Any]()
        while not rest:
            cursor, depths, tallies, *rest = self._scripts.run("stats", RECENT_S, cursor)
            pages.append((depths, tallies))
        return pages, rest, rest.pop()

    def close(self) -> None:
        self._subscription.close()
        self._scripts.close()
