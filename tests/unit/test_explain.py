"""Each reason of ``why``, built from facts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest

from agentpipe.brokers.location import AgentSeen, ClaimSeen, GroupSeen, TaskLocation
from agentpipe.brokers.statistics import WorkerSeen
from agentpipe.core.budgets import Budget, Spending
from agentpipe.core.policy import PolicySpec, PolicyState
from agentpipe.core.text import counted, duration
from agentpipe.operations.explain import Explanation, Reason, explain, explain_group
from agentpipe.operations.explain.phrases import reading
from agentpipe.operations.explain.waiting import estimate_s
from agentpipe.settings import OutboxLimits
from agentpipe.worker.claims.heartbeat import Heartbeat

NOW = 1_800_000_000.0
MARKS = OutboxLimits(100, 10_000)


def worker(name: str = "w", *, slots: int = 4, running: int = 1, **told: Any) -> WorkerSeen:
    return WorkerSeen(name, "host", 1, slots, running, 2.0, Heartbeat(**told).encode())


W = worker(up_s=598.0)
RUN = ClaimSeen("other", "a_0", "w", NOW - 30)
AGENT = AgentSeen("a_0", "a", 1, waiting=5, servers=(W,))
DOWN = worker(sink_down_s=298.0, sink_error="Unreachable: kafka:9092 does not answer")


def waiting(agent: AgentSeen = AGENT, **facts: Any) -> TaskLocation:
    known = {"submitted_at": NOW - 600, "position": 3, "workers": (W,)}
    return TaskLocation("t", "waiting", agent=agent, **{**known, **facts})


def at(place: Any, **facts: Any) -> TaskLocation:
    return TaskLocation("t", place, **{"agent": AGENT, "workers": (W,), **facts})


def unsure(**facts: Any) -> TaskLocation:
    return TaskLocation("t", "unknown", complete=False, workers=(W,), **facts)


def explained(facts: TaskLocation, position: int | None = None) -> Explanation:
    return explain(facts, NOW, MARKS, position)


def agent(**fields: Any) -> AgentSeen:
    return replace(AGENT, **fields)


ALONE = agent(servers=())
AHEAD = PolicyState(
    PolicySpec("main", ("http://h/v1",), batch=64, max_staleness=1), 3, accepted=300, running=20
)
SPENT = Spending("collection", "a", Budget(1.0), 1.25)
BUSY = agent(runs=(RUN,), run_s=60.0)
GATED = agent(group_limit=1, group_runs=(replace(RUN, queue="a_1"),))
THERE = "waiting for 10 min at a_0, position 3 of 5"
PASTE = 'agentpipe tail --from beginning --timeout 2 --json | grep -F \'"task_id":"t"\''
CASES: list[tuple[TaskLocation, str, str, str]] = [
    (
        waiting(agent(paused=True, collection_paused=True)),
        "agent_paused",
        f"{THERE}: its agent a_0 is paused",
        "agentpipe resume a_0",
    ),
    (
        waiting(agent(collection_paused=True, servers=())),
        "collection_paused",
        f"{THERE}: its collection a is paused",
        "agentpipe resume a",
    ),
    (
        waiting(agent(collection_paused=True, pause_reason="10 runs failed")),
        "collection_paused",
        f"{THERE}: its collection a is paused: 10 runs failed",
        (
            "mend the cause, then `agentpipe resume a`; "
            "`agentpipe dead replay --collection a` runs its dead letters again"
        ),
    ),
    (
        waiting(agent(spending=SPENT, servers=())),
        "budget_spent",
        f"{THERE}: the budget is spent: $1.25 of $1.00",
        "what runs finishes; a higher cap allows more: agentpipe resume a --budget-usd USD",
    ),
    (
        waiting(spending=replace(SPENT, kind="run", name="v1")),
        "budget_spent",
        f"{THERE}: the budget of run v1 is spent: $1.25 of $1.00",
        "what runs finishes; a higher cap allows more: agentpipe resume --run v1 --budget-usd USD",
    ),
    (
        at("delayed", spending=replace(SPENT, kind="run", name="v1")),
        "budget_spent",
        "the budget of run v1 is spent: $1.25 of $1.00",
        "what runs finishes; a higher cap allows more: agentpipe resume --run v1 --budget-usd USD",
    ),
    (
        at("delayed", policy=AHEAD),
        "policy_ahead",
        (
            "policy main has version 3, and allows (1 + 3 + 1) * 64 = 320 groups to begin: 300 are "
            "accepted, 20 are running"
        ),
        "it may begin after the next version: agentpipe policy publish main --version N",
    ),
    (
        at("running", run=RUN, held_by="main"),
        "policy_paused",
        "w has been running it for 30 s; policy main is paused: its requests wait",
        "they go on with the next version, or by: agentpipe policy resume main",
    ),
    (
        waiting(ALONE),
        "no_worker",
        (f"{THERE}: no worker serves a_0; these serve others: w (up for 10 min)"),
        "start workers with its collection file: agentpipe work",
    ),
    (
        waiting(ALONE, workers=(worker(),)),
        "no_worker",
        (f"{THERE}: no worker serves a_0; these serve others: w (heard 2.0 s ago)"),
        "start workers with its collection file: agentpipe work",
    ),
    (
        waiting(ALONE, workers=()),
        "no_worker",
        (f"{THERE}: no worker serves a_0, and no other worker is running"),
        "start workers with its collection file: agentpipe work",
    ),
    (
        waiting(outbox=1_000, workers=(DOWN,)),
        "outbox_full",
        (
            f"{THERE}: workers claim nothing while 1,000 results wait for the sink; w has "
            "failed to publish for 5 min: Unreachable: kafka:9092 does not answer"
        ),
        "repair the sink, or see the workers' logs; claims then resume by themselves",
    ),
    (
        waiting(outbox=1, outbox_bytes=10_000),
        "outbox_full",
        (f"{THERE}: workers claim nothing while 1 result wait for the sink"),
        "repair the sink, or see the workers' logs; claims then resume by themselves",
    ),
    (
        waiting(agent(cooldown_s=90.0), error="InfraError: 429"),
        "agent_held",
        (f"{THERE}: its agent is in cooldown for another 90 s, after InfraError: 429"),
        "workers claim from its agent again in 90 s",
    ),
    (
        waiting(GATED),
        "gate_full",
        (f"{THERE}: its concurrency group is full (limit 1): other (on w for 30 s)"),
        "it may run when one of these ends",
    ),
    (
        waiting(replace(GATED, runs=(RUN,), group_runs=(RUN,))),
        "agent_busy",
        (f"{THERE}: its agent is busy with other (on w for 30 s)"),
        "it is claimed in its turn; no estimate before its first run has ended",
    ),
    (
        waiting(BUSY, failures=1, crashes=2),
        "agent_busy",
        (f"{THERE}, after 1 failure and 2 crashes: its agent is busy with other (on w for 30 s)"),
        "it begins in about 2 min, judging by recent runs",
    ),
    (
        waiting(BUSY, position=None, complete=False),
        "agent_busy",
        "waiting for 10 min at a_0: its agent is busy with other (on w for 30 s)",
        "queue position unknown with this broker; it is claimed in its turn",
    ),
    (
        waiting(agent(servers=(worker(slots=2, running=2),))),
        "slots_full",
        (f"{THERE}: all 2 slots of the workers that serve its agent are busy"),
        "it is claimed when a slot is free; add workers, or raise --slots",
    ),
    (
        waiting(),
        "behind",
        f"{THERE}: 2 tasks before it",
        "it is claimed in its turn; no estimate before its first run has ended",
    ),
    (
        waiting(position=2),
        "behind",
        "waiting for 10 min at a_0, position 2 of 5: 1 task before it",
        "it is claimed in its turn; no estimate before its first run has ended",
    ),
    (
        waiting(agent(servers=None), position=None),
        "behind",
        "waiting for 10 min at a_0: 5 tasks wait there",
        "queue position unknown with this broker; it is claimed in its turn",
    ),
    (
        waiting(position=1, submitted_at=None, cancelled=True),
        "next",
        ("waiting at a_0, position 1 of 5, cancelled and will not run: next to be claimed"),
        "a worker with a free slot claims it now",
    ),
    (
        at("delayed", due_at=NOW + 9, error="sent with another config: a of its sender, b of w"),
        "other_config",
        (
            "the workers leave it alone, as strict_config asks: sent with another config: a of its "
            "sender, b of w; workers look at it again in 9.0 s"
        ),
        (
            "start workers with the sender's config, give each project a ?prefix= of its own in "
            "the broker's URL, or cancel it and send it again"
        ),
    ),
    (
        at("delayed", due_at=NOW + 90),
        "delay",
        "it is delayed for another 90 s, as requested by its sender",
        "it then returns to its queue; agentpipe cancel ends it",
    ),
    (
        at("delayed", due_at=NOW + 90, failures=2, error="InfraError: 503", agent=ALONE),
        "retry",
        (
            "it is delayed for another 90 s, after 2 failures; the last error: InfraError: 503; "
            "then it would still wait: no worker serves a_0; these serve others: w (up for 10 "
            "min)"
        ),
        "it then returns to its queue; agentpipe cancel ends it",
    ),
    (
        at("delayed", due_at=NOW - 90, failures=1, agent=ALONE, workers=()),
        "retry",
        (
            "its delay ended 90 s ago, after 1 failure; then it would still wait: no worker "
            "serves a_0, and no other worker is running"
        ),
        "start workers with its collection file: agentpipe work",
    ),
    (
        at("running", run=replace(RUN, task_id="t"), failures=1),
        "running",
        "w has been running it for 30 s, after 1 failure",
        "it ends by itself or at its time limit; agentpipe cancel ends it now",
    ),
    (
        at("running", run=None),
        "running",
        "a worker has been running it",
        "it ends by itself or at its time limit; agentpipe cancel ends it now",
    ),
    (
        at("running", run=RUN, cancelled=True),
        "ending",
        "w has been running it for 30 s; it was cancelled and has been signalled",
        "its Result follows, `cancelled` unless it finishes first",
    ),
    (
        at("running", run=RUN, workers=()),
        "worker_gone",
        "its worker w has died or hangs; it started the task 30 s ago",
        "no worker is running to put it back: agentpipe work",
    ),
    (
        at("running", run=replace(RUN, worker="v")),
        "worker_gone",
        "its worker v has died or hangs; it started the task 30 s ago",
        "the next worker puts it back and counts a crash",
    ),
    (
        at("outbox", outbox=40, outbox_before=12, since=NOW - 5),
        "not_forwarded",
        "it is done, and its Result waits for the sink with 12 before it",
        "a worker forwards it in a moment; if not, see its log",
    ),
    (
        at("outbox", outbox=40, outbox_before=12, workers=(W, DOWN)),
        "not_forwarded",
        (
            "it is done, and its Result waits for the sink with 12 before it; w has failed to "
            "publish for 5 min: Unreachable: kafka:9092 does not answer"
        ),
        "repair the sink: workers retry by themselves, and nothing runs twice",
    ),
    (
        at("outbox", outbox_before=0, workers=()),
        "not_forwarded",
        "it is done, and its Result waits for the sink with 0 before it",
        "no worker is running to forward it: agentpipe work",
    ),
    (
        at("dead", outcome="crashed", error="3 crashes", since=NOW - 7_200, outbox_before=1),
        "dead",
        (
            "it became a dead letter 2.0 h ago as crashed: 3 crashes; its Result waits for the "
            "sink with 1 before it"
        ),
        (
            "agentpipe dead show t; then agentpipe dead replay t runs it again as a new "
            "task, agentpipe dead drop t deletes it"
        ),
    ),
    (
        at("settled", since=NOW - 180),
        "settled",
        "it was settled 3 min ago, and the sink has confirmed its Result",
        f"read it: {PASTE}".replace("beginning", "2027-01-15T07:56:00Z"),
    ),
    (
        at("unknown"),
        "unknown",
        (
            "this broker does not know it: it was never accepted here, or its id is past the "
            "retention time"
        ),
        f"check the id and the broker; if it is done, this prints its Result: {PASTE}",
    ),
    (
        unsure(outbox=0, delayed=0, unclaimed=0),
        "unsure",
        (
            "no worker has it and it is not a dead letter. Nothing waits, is delayed or is in "
            "the outbox: it is done, or was never sent here"
        ),
        f"if it is done, this prints its Result: {PASTE}",
    ),
    (
        replace(
            unsure(outbox=3, delayed=1, unclaimed=7, dead_unread=9, candidates=(BUSY,)),
            workers=(DOWN,),
        ),
        "unsure",
        (
            "no worker has it and it may be one of the 9 dead letters "
            "(agentpipe dead show reads them). This broker cannot look into its queues for one "
            "task: it may wait (7 do), be delayed (1 are), be done and wait for the sink (3 do), "
            "have been delivered, or "
            "never have been sent here. If it waits: at a_0 its agent is busy with other (on "
            "w for 30 s). Of the sink: w has failed to publish for 5 min: Unreachable: "
            "kafka:9092 does not answer"
        ),
        (
            "if it waits: queue position unknown with this broker; it is claimed in its turn. If "
            f"it is done, this prints its Result: {PASTE}"
        ),
    ),
]


@pytest.mark.parametrize(("facts", "reason", "sentence", "following"), CASES)
def test_a_reason_in_words(facts: TaskLocation, reason: str, sentence: str, following: str) -> None:
    found = explained(facts)
    assert (found.reason, found.sentence, found.next) == (reason, sentence, following)
    assert found.state == facts.place


GROUP = GroupSeen("g", 8, 2, 5, 1, 1, 0, 2, ("t", "g/3", "g/4"))
OF_GROUP = (
    "the group g has 5 of the 8 good samples that it needs, 2 running, 1 waiting, 1 of no use, and "
    "2 repairs left"
)


def test_a_member_tells_of_its_group_and_a_group_of_what_it_waits_for() -> None:
    alone, member = explained(waiting()), explained(waiting(group=GROUP))
    assert member.sentence == f"{alone.sentence}; {OF_GROUP}"
    assert (member.reason, member.next) == (alone.reason, alone.next)
    assert member.to_dict()["group"]["open"] == ("t", "g/3", "g/4")
    assert alone.to_dict()["group"] is None
    group = explain_group(GROUP, alone)
    assert group.to_dict()["group"] == member.to_dict()["group"]
    assert (group.task_id, group.state, group.reason) == ("g", "open", alone.reason)
    assert group.sentence == f"{OF_GROUP}. It waits for t, {alone.sentence}"
    assert group.next == alone.next


def test_all_reasons_are_tested() -> None:
    assert {reason for _, reason, _, _ in CASES} | {"delivered", "undeliverable"} == set(
        get_args(Reason)
    )  # The store itself reports neither.


@pytest.mark.parametrize("place", ["settled", "unknown"])
def test_what_the_stream_has_is_delivered(place: str) -> None:
    found = explained(at(place, since=NOW - 180), 1_234)
    assert (found.state, found.reason) == ("delivered", "delivered")
    assert found.sentence.startswith("it is delivered: its Result is record 1,234 of the stream")
    assert found.next == "read it: agentpipe show t"
    assert found.to_dict()["stream_position"] == 1_234


def test_what_runs_is_not_called_delivered_for_an_earlier_task_of_its_id() -> None:
    assert explained(at("running", run=RUN), 7).state == "running"


def test_every_state_has_the_same_keys() -> None:
    keys = {frozenset(explained(facts).to_dict()) for facts, *_ in CASES}
    assert len(keys) == 1


def test_moments_are_iso_8601() -> None:
    told = explained(waiting(BUSY)).to_dict()
    assert told["since"] == told["runs"][0]["since"] == "2027-01-15T07:59:30.000000Z"
    assert told["submitted_at"] == "2027-01-15T07:50:00.000000Z"
    assert told["workers"][0]["since"] == "2027-01-15T07:50:00.000000Z"
    assert told["workers"][0]["serves"] is True


def test_names_are_quoted_for_a_shell() -> None:
    odd = replace(at("dead", outcome="crashed", error="e"), task_id="a b;$(x)")
    assert "agentpipe dead show 'a b;$(x)';" in explained(odd).next
    assert reading('a "b', None).endswith("""grep -F '"task_id":"a \\"b"'""")


def test_long_lists_are_cut() -> None:
    many = tuple(replace(RUN, task_id=f"t{n}") for n in range(20))
    said = explained(waiting(agent(runs=many))).sentence
    assert said.endswith("t2 (on w for 30 s); 17 more")


@pytest.mark.parametrize(
    ("concurrency", "gate", "gone_s", "position", "seconds"),
    [
        (1, None, [], 1, 0.0),
        (1, None, [], 3, 20.0),
        (1, None, [4], 1, 6.0),
        (1, None, [4], 3, 26.0),
        (1, None, [40], 2, 10.0),
        (4, None, [4], 3, 0.0),
        (4, None, [4, 2, 1, 0], 4, 6.0),
        (4, None, [4, 2, 1, 0], 5, 16.0),
        (4, 2, [4, 2], 5, 26.0),
    ],
)
def test_the_estimate(
    concurrency: int, gate: int | None, gone_s: list[float], position: int, seconds: float
) -> None:
    found = tuple(replace(RUN, since=NOW - gone) for gone in gone_s)
    seen = agent(concurrency=concurrency, group_limit=gate, runs=found, run_s=10.0)
    assert estimate_s(seen, position, NOW) == seconds


def test_without_ended_runs_or_a_position_there_is_no_estimate() -> None:
    assert estimate_s(AGENT, 3, NOW) is None
    assert estimate_s(BUSY, None, NOW) is None
    assert explained(waiting(replace(BUSY, paused=True))).to_dict()["estimate_s"] is None


def test_durations() -> None:
    found = [duration(seconds) for seconds in (-1, 0, 119, 120, 7_199, 7_200, 172_800)]
    assert found == ["0.0 s", "0.0 s", "119 s", "2 min", "120 min", "2.0 h", "2 d"]
    assert [counted(n, "crash") for n in (1, 2_000)] == ["1 crash", "2,000 crashes"]
