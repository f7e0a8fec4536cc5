"""Decisions that the RabbitMQ store makes without a server."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, cast

import orjson
import pytest
from pika import exceptions

from agentpipe.brokers.location import ClaimSeen
from agentpipe.brokers.rabbitmq.address import RabbitAddress
from agentpipe.brokers.rabbitmq.assignment import share_of
from agentpipe.brokers.rabbitmq.cancel_marks import by_id, by_queue, covers
from agentpipe.brokers.rabbitmq.cooldowns import Cooldowns
from agentpipe.brokers.rabbitmq.membership import Membership
from agentpipe.brokers.rabbitmq.messages import Message
from agentpipe.brokers.rabbitmq.registry import RegistryEntry
from agentpipe.brokers.rabbitmq.rpc import (
    Member,
    Reply,
    Request,
    TaskHeld,
    decode,
    encode,
)
from agentpipe.brokers.rabbitmq.topology import (
    DELAY_QUEUES,
    SHORTEST_DELAY_MS,
    Topology,
    delay_level,
)
from agentpipe.brokers.records import Offer, Queue
from agentpipe.brokers.statistics import Tally
from agentpipe.connections.amqp.arrivals import Delivery
from agentpipe.connections.amqp.connection import why_not
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agentpipe.brokers.rabbitmq.worker_channel import WorkerChannel
    from agentpipe.connections.amqp.message import OutgoingMessage

TOPOLOGY = Topology("fleet")


def crew(*slots: int, queues: int = 8, first: str = "") -> list[Member]:
    served = frozenset(f"q{index}" for index in range(queues))
    return [
        Member(f"{first}w{index}", "", slots=number, queues=served)
        for index, number in enumerate(slots)
    ]


# Which worker serves what.


@pytest.mark.parametrize("slots", [(1,), (4, 4), (1, 1, 1), (100, 4), (0, 0), (7, 1, 3, 2, 9)])
def test_each_queue_is_in_one_share(slots: tuple[int, ...]) -> None:
    members = crew(*slots, queues=50)
    shares = [share_of(member.name, members) for member in members]
    served = Counter(queue for share in shares for queue in share)
    assert served == dict.fromkeys((f"q{index}" for index in range(50)), 1)


def test_shares_go_by_slots() -> None:
    members = crew(30, 10, queues=40)
    assert [len(share_of(member.name, members)) for member in members] == [30, 10]


def settled(members: list[Member]) -> list[Member]:
    """The same members, once each serves its share."""
    shares = {it.name: share_of(it.name, members) for it in members}
    return [replace(it, owned=frozenset(shares[it.name])) for it in members]


@pytest.mark.parametrize("gone", range(5))
def test_the_end_of_a_worker_moves_its_agents_alone(gone: int) -> None:
    before = settled(crew(3, 3, 3, 3, 3, queues=22))
    left = [it for it in before if it.name != f"w{gone}"]
    after = settled(left)
    assert all(was.owned <= it.owned for was, it in zip(left, after, strict=True))
    assert frozenset().union(*(it.owned for it in after)) == before[0].queues


def test_a_new_worker_gets_its_part_and_the_others_exchange_nothing() -> None:
    before = settled(crew(2, 2, 2, queues=24))
    new = crew(2, queues=24, first="new-")
    after = settled([*new, *before])
    assert [len(it.owned) for it in after] == [6, 6, 6, 6]
    assert all(it.owned <= was.owned for was, it in zip(before, after[1:], strict=True))


def test_an_odd_agent_stays_where_it_is() -> None:
    before = [replace(it, owned=frozenset()) for it in crew(1, 1, queues=3)]
    before[1] = replace(before[1], owned=frozenset({"q1", "q2"}))
    assert [it.owned for it in settled(before)] == [{"q0"}, {"q1", "q2"}]


def test_all_come_to_the_same_shares_in_whatever_order_they_heard() -> None:
    members = crew(3, 2, 5)
    assert all(share_of(it.name, members) == share_of(it.name, members[::-1]) for it in members)


def test_a_queue_goes_only_to_who_serves_it() -> None:
    here, there = crew(4, queues=2)[0], crew(4, queues=4, first="x")[0]
    shares = {member.name: share_of(member.name, [here, there]) for member in (here, there)}
    assert shares[here.name] <= here.queues
    assert shares[here.name] | shares[there.name] == there.queues


def test_a_member_comes_back_from_the_wire_as_it_was() -> None:
    member = Member("w", "amq.gen-1", "host", 7, 3, frozenset("ab"), frozenset("a"), {"a": 2})
    hello = Request("hello", member, greet=True)
    assert decode(Request, encode(hello).body) == hello


def test_a_reply_comes_back_from_the_wire_as_it_was() -> None:
    tally = Tally(done=3, usd=0.5, error="E: why", error_s=1.5)
    held = TaskHeld("q", 1, 2, 3.5, "E", cancelled=True, since=None)
    reply = Reply(
        Member("w", "amq.gen-1"),
        {"q": tally},
        {"ok": 3},
        2,
        ending=("a \u2603", "b"),
        found=(held,),
        runs=(ClaimSeen("a", "q", "w", 4.5),),
        run_s={"q": 0.1},
    )
    assert decode(Reply, encode(reply, key="to").body) == reply
    request = Request("cancel", marks={"id a": 5}, queues=frozenset("q"), to="amq.gen-2")
    assert decode(Request, encode(request).body) == request


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"5",
        b'{"kind": "hello", "member": []}',
        b'{"kind": "gone", "member": {"name": "w"}}',
    ],
)
def test_a_note_of_another_version_is_ignored(body: bytes) -> None:
    assert decode(Request, body) is None


def test_what_a_later_version_adds_to_a_note_is_left_out() -> None:
    later = b'{"kind": "gone", "member": {"name": "w", "address": "a", "why": "?"}, "new": 1}'
    assert decode(Request, later) == Request("gone", Member("w", "a"))


def test_a_gates_queues_are_in_one_share() -> None:
    members = crew(3, 1, 2, queues=30)
    gates = {f"q{index}": f"gate {index % 4}" for index in range(20)}
    shares = [share_of(it.name, members, lambda name: gates.get(name, name)) for it in members]
    for gate in set(gates.values()):
        behind = {queue for queue, its in gates.items() if its == gate}
        assert [behind & share for share in shares if behind & share] == [behind]
    assert Counter(q for share in shares for q in share) == dict.fromkeys(members[0].queues, 1)


def test_a_gate_goes_to_who_serves_all_of_it() -> None:
    some, all_of_it = crew(9, queues=1)[0], crew(1, queues=3, first="x")[0]
    shares = [share_of(it.name, [some, all_of_it], lambda _: "gate") for it in (some, all_of_it)]
    assert shares == [set(), {"q0", "q1", "q2"}]


# Holds.


def test_a_hold_that_goes_round_does_not_grow() -> None:
    holds = Cooldowns()
    assert holds.note("q", 60)
    left = holds.left_s("q")
    assert not holds.note("q", 60.1)
    assert holds.left_s("q") <= left
    assert holds.note("q", 90)
    holds.begin("q", 1)
    assert holds.left_s("q") > 60
    assert holds.all().keys() == {"q"}


def test_a_worker_that_joins_late_hears_of_the_last_moment_of_a_hold() -> None:
    holds = Cooldowns()
    assert holds.note("q", 0.4)
    assert 0.3 < holds.left_s("q") <= 0.4


def test_a_hold_is_forgotten_when_it_is_over() -> None:
    holds = Cooldowns()
    holds.begin("q", 0)
    assert (holds.left_s("q"), holds.left_s("other"), holds.all()) == (0, 0, {})


# Cancel marks.


def test_a_mark_covers_what_it_names_and_what_was_submitted_before_it() -> None:
    task = Message("a", "q", b"", submitted_ms=5, group_id="g h")
    for key in (by_id("a"), by_queue("q"), by_queue("q", "g h")):
        assert covers({key: 5}, task)
        assert not covers({key: 4}, task)
    others = (by_id("b"), by_id("q"), by_queue("a"), by_queue("q", "g"))
    assert not any(covers({key: 9}, task) for key in others)
    assert not covers({by_queue("q", "g"): 9}, Message("a", "q", b"", submitted_ms=5))


# Delays.


def test_a_delay_waits_behind_none_that_is_twice_as_long() -> None:
    for delay_ms in (1, 99, 100, 101, 200, 201, 60_000, 3_600_000):
        longest = SHORTEST_DELAY_MS * 2 ** delay_level(delay_ms)
        assert delay_ms <= longest
        assert delay_level(delay_ms) == 0 or longest < 2 * delay_ms


def test_any_delay_has_a_queue() -> None:
    assert delay_level(10**12) == DELAY_QUEUES - 1
    assert delay_level(0) == 0


def test_a_delayed_message_keeps_the_key_that_brings_it_back() -> None:
    letter = Message.offered(Offer("a", b"{}"), "crew_0").delayed(TOPOLOGY, 1.5)
    assert (letter.key, letter.expires_ms) == ("fleet.crew_0.back", 1500)
    assert letter.exchange == TOPOLOGY.later(delay_level(1500)).name


# Messages.


def delivered(body: bytes, headers: Mapping[str, Any]) -> Delivery:
    return Delivery(1, redelivered=False, headers=dict(headers), body=body)


def test_a_message_is_read_as_it_was_written() -> None:
    sent = (
        Message.offered(
            Offer("a \u2603", b"\x00{}", priority=-7, group_id="epoch \u2603"), "crew_0"
        )
        .failed("E: why")
        .crashed()
    )
    outgoing = sent.to(TOPOLOGY.back("crew_0"))
    assert Message.read(delivered(outgoing.body, outgoing.headers), "crew_0") == sent
    assert Message.read(delivered(outgoing.body, outgoing.headers)) == sent


def test_what_somebody_else_has_put_there_gets_an_id() -> None:
    read = Message.read(delivered(b"\xff", {"agentpipe-crashes": "many"}), "crew_0")
    assert read.task_id.startswith("foreign-")
    assert (read.payload, read.crashes, read.group_id) == (b"\xff", 0, None)


def test_lower_priorities_are_higher_ones_of_amqp() -> None:
    levels = [
        Message("a", "q", b"", priority=priority).to(TOPOLOGY.back("q")).priority
        for priority in (-9, -1, 0, 1, 9)
    ]
    assert levels == [2, 2, 1, 0, 0]


# The registry.


def test_an_entry_remembers_bounds_and_queues_of_old() -> None:
    (first,) = RegistryEntry.of([Queue("c_0", "c", 5), Queue("c_1", "c", 5)])
    (second,) = RegistryEntry.of([Queue("c_0", "c", 9)])
    (third,) = RegistryEntry.of([Queue("c_0", "c", 5)])
    both = second.after(first)
    assert (both.queues, both.former, both.bounds) == (("c_0",), ("c_1",), (5, 9))
    assert third.after(both).bounds == (9, 5)
    assert both.says(second)
    assert not both.says(third)


def test_an_entry_knows_the_gates_of_its_queues() -> None:
    queues = [
        Queue("c_0", "c", concurrency_group="c/0", concurrency_group_limit=2),
        Queue("c_1", "c"),
    ]
    (entry,) = RegistryEntry.of(queues)
    assert RegistryEntry.decode(orjson.loads(orjson.dumps(entry))).current() == queues
    assert not entry.says(RegistryEntry.of([Queue("c_0", "c"), Queue("c_1", "c")])[0])
    of_old = orjson.loads(orjson.dumps(entry))
    del of_old["gates"]
    assert [queue.concurrency_group for queue in RegistryEntry.decode(of_old).current()] == [
        None,
        None,
    ]


# Addresses.


def test_a_url_is_taken_apart() -> None:
    address = RabbitAddress.parse("amqp://ann:p%40ss@host:1234/%2Fteam?prefix=mine&queues=quorum")
    assert (address.server.host, address.server.port, address.server.vhost) == (
        "host",
        1234,
        "/team",
    )
    assert (address.server.user, address.server.password) == ("ann", "p@ss")
    assert address.topology == Topology("mine", quorum=True)
    assert "p%40ss" not in address.shown


@pytest.mark.parametrize(("url", "port"), [("amqp://h", 5672), ("amqps://h/", 5671)])
def test_what_a_url_leaves_out_is_the_usual(url: str, port: int) -> None:
    address = RabbitAddress.parse(url)
    assert (address.server.port, address.server.vhost, address.server.user) == (port, "/", "guest")
    assert (address.server.tls is not None) == url.startswith("amqps")


@pytest.mark.parametrize(
    "rest",
    ["/?prefx=a", "/?queues=odd", ":port/", "/?prefix", "/?cafile=/no/such/file"],
)
def test_a_wrong_url_is_told_without_its_password(rest: str) -> None:
    with pytest.raises(ConfigError) as told:
        RabbitAddress.parse(f"amqps://ann:s3cret@host{rest}")
    assert "s3cret" not in str(told.value)
    assert "host" in str(told.value)


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (exceptions.AMQPConnectionError(ConnectionRefusedError(111, "refused")), "nothing listens"),
        (exceptions.ProbableAuthenticationError("no"), "password"),
        (exceptions.ProbableAccessDeniedError("no"), "vhost"),
        (exceptions.AMQPConnectionError(ssl.SSLError(1, "wrong version")), "TLS failed"),
        (exceptions.IncompatibleProtocolError("x"), "AMQP 0.9.1"),
        (TimeoutError(), "in time"),
        (ValueError("something else"), "something else"),
    ],
)
def test_each_failure_to_connect_says_what_to_do(error: Exception, word: str) -> None:
    assert word in why_not(error)
    assert "\n" not in why_not(error)


# Membership.


class Wire:
    """A worker's channel: while one of the other workers is probed, all of them leave."""

    def __init__(self) -> None:
        self.raw = self.services = self
        self.topology, self.queue = TOPOLOGY, "a"
        self.look, self.asked = asyncio.Event(), 0
        self._receive: Callable[[Delivery], None]

    async def call(self, *_: object, **__: object) -> Wire:
        return self

    async def consume(self, _: str, __: int, receive: Callable[[Delivery], None]) -> None:
        self._receive = receive

    def ack(self, _: int) -> None:
        pass

    def hear(self, kind: Literal["hello", "gone", "lost"]) -> None:
        for name in (
            "c",
            "b",
        ):  # "c" is heard longest ago, "b" is next in the ring.
            self._receive(Delivery(1, False, body=encode(Request(kind, Member(name, name))).body))

    async def publish(self, messages: list[OutgoingMessage]) -> list[str]:
        request = decode(Request, messages[0].body)
        if request and request.kind == "probe" and request.to:
            self.asked += 1
            self.hear("gone")
        return ["routed"]


async def look_round(wire: Wire, membership: Membership) -> None:
    await membership.open()
    wire.hear("hello")
    await membership.probe()


def test_a_worker_that_goes_while_another_is_asked_is_no_error() -> None:
    wire = Wire()
    channel = cast("WorkerChannel", wire)
    membership = Membership(channel, lambda: Member("a", "a"), lambda _: None, 30.0)
    asyncio.run(look_round(wire, membership))
    assert (wire.asked, membership.members) == (len("bc"), {})


async def hear_of_ends(wire: Wire, membership: Membership, *, says_goodbye: bool) -> None:
    await membership.open()
    if says_goodbye:
        wire.hear("hello")
        wire.hear("gone")
    wire.hear("lost")


@pytest.mark.parametrize("says_goodbye", [True, False])
def test_a_worker_that_said_goodbye_is_not_lost_as_well(*, says_goodbye: bool) -> None:
    """Regression: one that had found it lost said so later; its agents waited for a lease."""
    wire = Wire()
    channel = cast("WorkerChannel", wire)
    membership = Membership(channel, lambda: Member("a", "a"), lambda _: None, 30.0)
    asyncio.run(hear_of_ends(wire, membership, says_goodbye=says_goodbye))
    assert membership.members.keys() == (set() if says_goodbye else {"b", "c"})
