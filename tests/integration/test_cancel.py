"""`agentpipe cancel`: in every state a task gets one Result, and its run ends."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from contextlib import closing
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from agentpipe.config.collection import load
from agentpipe.operations.cancel import CancelReport, cancel_matching
from agentpipe.operations.cancel import cancel as cancel_in
from agentpipe.sending.dispatcher import Dispatcher
from agentpipe.settings import Settings
from tests.support import processes_with, slowness, wait_until

if TYPE_CHECKING:
    from tests.integration.project import Project

TOLD_WITHIN_S = 2.0
RACING, RUN_S = 500, 0.2
FIVE = ("toys", "plain", "patient", "apart", "command")
OWN_AGENTS = """
import asyncio
import os
import time

from toys import Toy


class Patient:
    '''Heeds an exception, as a plain function that returns to Python now and then.'''

    def execute(self, task, context):
        while True:
            time.sleep(0.01)


class Deaf(Toy):
    '''Ends long after it was told to.'''

    grace_s = 60

    async def execute(self, task, context):
        self.journal.note("started", task, context)
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(60)
"""


def agent(project: Project, name: str, **config: Any) -> str:
    spec = {"name": name, "type": "python", "config": config}
    if "argv" in config:
        spec["type"] = "command"
    project.write(f"{name}.yaml", yaml.safe_dump({"kind": "agent", "spec": spec}))
    return f"./{name}.yaml"


def cancel(project: Project, *args: str, code: int = 0) -> dict[str, list[str]]:
    """The command's report: task ids by what happened to them."""
    done = project.run("cancel", "--json", *args)
    assert done.code == code, done
    return {fate: sorted(ids) for fate, ids in done.json.items()}


def send(project: Project, **tasks: list[dict[str, Any]]) -> None:
    """Send tasks to collections, in this process: a command for each would take long."""
    settings = Settings.from_env(project.environ)
    collections = load(project.folder / "collection.yaml", 100)
    with closing(Dispatcher.open(collections, settings)) as dispatcher:
        for name, given in tasks.items():
            sent = dispatcher.send_many(name, [{"question": "sleep 60", **it} for it in given])
            assert sent.accepted == len(given)


def fates(**wanted: list[str]) -> dict[str, list[str]]:
    return {fate: wanted.get(fate, []) for fate in ("cancelled", "told", "settled", "unknown")}


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.long
@pytest.mark.every_broker
def test_whatever_runs_ends_within_two_seconds_and_its_slot_is_free(project: Project) -> None:
    project.write("own.py", OWN_AGENTS)
    mark = f"sleep 60.{random.randrange(10**9)}"
    journal = str(project.journal_file)
    command = agent(project, "command", argv=["sh", "-c", f"{mark} & sleep 60"])
    patient = agent(project, "patient", **{"class": "own:Patient"})
    apart = agent(project, "apart", **{"class": "toys:Toy", "journal": journal})
    project.collection("toys")
    project.collection("plain", "./plain.yaml")
    project.collection("patient", patient)
    project.collection("apart", apart, isolation="process")
    project.collection("command", command)
    fleet = project.work("--processes", "2").ready(2)
    questions = {"toys": "sleep 60", "plain": "block 60", "apart": "sleep 60"}
    tasks = {it: {"question": questions.get(it, "go"), "task_id": f"{it}-0"} for it in FIVE}
    send(project, **{name: [task] for name, task in tasks.items()})
    project.until(running=5)
    wait_until(lambda: len(project.journal("started")) == 3, 10, "they run")
    wait_until(lambda: processes_with(mark.replace(" ", "\0")), 10, "the command's child runs")
    (child,) = [it["pid"] for it in project.journal("started") if it["task_id"] == "apart-0"]
    with closing(project.open_store()) as store:
        asked = time.time()
        told = cancel_in(store, [f"{name}-0" for name in FIVE]).told
    assert set(told) == {f"{name}-0" for name in FIVE}
    project.until(delivered=5, running=0)
    results = project.by_id()
    ended = [datetime.fromisoformat(it["finished_at"]).timestamp() for it in results.values()]
    assert {result["outcome"] for result in results.values()} == {"cancelled"}
    assert all(result["started_at"] for result in results.values())
    assert max(ended) - asked < TOLD_WITHIN_S * slowness()
    wait_until(lambda: not is_alive(child), 10, "its process has ended")
    wait_until(lambda: not processes_with(mark.replace(" ", "\0")), 10, "the child has ended")
    continues = "agent plain_0: a run continues after its cancellation"
    wait_until(lambda: continues in fleet.log, 10, "the worker says so")
    again = [{"question": "echo again"}]
    send(project, toys=again, plain=again, apart=again)
    project.until(delivered=8, running=0)
    assert Counter(it["outcome"] for it in project.by_id().values())["ok"] == 3
    assert not project.journal("finished") or {"apart-0"}.isdisjoint(
        entry["task_id"] for entry in project.journal("finished")
    )


@pytest.mark.long
@pytest.mark.parametrize("broker_url", ["sqlite", "redis"], indirect=True)
def test_what_does_not_run_is_answered_at_once_wherever_it_is(project: Project) -> None:
    """Behind another task, without a free slot, before a retry, in a cooldown, or paused."""
    project.environ["AGENTPIPE_RETRY_DELAY_S"] = "600"
    for name in ("toys", "tried", "held", "paused", "done"):
        project.collection(name)
    project.collection("dead", max_retries=0)
    project.ok("pause", "paused")
    fleet = project.work("--processes", "1", "--slots", "1").ready(1)
    questions = {"paused": "echo", "done": "echo", "dead": "infra", "tried": "infra"}
    questions |= {"held": "limited-at-first 600"}
    send(project, **{it: [{"question": questions[it], "task_id": it}] for it in questions})
    project.until(delivered=2, running=0, dead=1)
    wait_until(lambda: len(project.journal("started")) == 4, 10, "the others were tried")
    project.until(running=0)  # The last of them can still be on its way back.
    send(project, toys=[{"task_id": "runs"}, {"task_id": "waits"}])
    wait_until(lambda: len(project.journal("started")) == 5, 10, "the slot is taken")
    waiting, ended, strange = ["held", "paused", "tried", "waits"], ["dead", "done"], ["strange"]
    assert cancel(project, *waiting, *ended, *strange, code=5) == fates(
        cancelled=waiting,
        settled=ended,
        unknown=strange,
    )
    project.until(delivered=6)  # The task in the slot continues.
    outcomes = {task_id: result["outcome"] for task_id, result in project.by_id().items()}
    assert outcomes == {
        **dict.fromkeys(waiting, "cancelled"),
        "done": "ok",
        "dead": "infra_error",
    }
    assert cancel(project, *ended, code=1)["cancelled"] == []
    assert project.stats()["running"] == 1
    fleet.signal(signal.SIGKILL)


@pytest.mark.long
@pytest.mark.every_broker
def test_500_cancels_race_with_their_runs_ends_and_each_has_one_result(project: Project) -> None:
    project.collection(number=10, concurrency=10)
    run_s = RUN_S * slowness()
    ids = project.send(*[f"sleep {run_s}"] * RACING)
    fleet = project.work("--processes", "2").ready(2)
    dice = random.Random(7)
    age_s = {task_id: dice.uniform(0, 2 * run_s) for task_id in ids}  # Some after the task's end.
    whole = CancelReport()
    with closing(project.open_store()) as store:

        def cancel_some() -> bool:
            nonlocal whole
            now = time.monotonic()
            begun = {it["task_id"]: now - it["monotonic"] for it in project.journal("started")}
            due = [it for it in begun if begun[it] > age_s.get(it, now)]
            whole += cancel_in(store, due)
            for task_id in due:
                del age_s[task_id]
            return len(project.streamed()) == RACING

        wait_until(cancel_some, 60, "all are answered")
    stats = project.until(delivered=RACING, running=0, waiting=0, outbox=0)
    outcomes = Counter(result["outcome"] for result in project.by_id().values())
    assert set(project.by_id()) == set(ids)
    assert set(outcomes) == {"ok", "cancelled"}
    assert not whole.cancelled
    assert len(whole.told) >= outcomes["cancelled"]
    # The sink keeps one Result per id; the broker's counts show that there was only one.
    assert stats["outcomes"] == dict(outcomes)
    assert len(project.journal("started")) == RACING
    assert fleet.stop() == 0


@pytest.mark.long
@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_a_worker_that_is_killed_after_it_was_told_leaves_nothing_to_run(project: Project) -> None:
    """The only worker was killed: the next one must know about the cancellation."""
    project.write("own.py", OWN_AGENTS)
    project.collection(
        config=agent(project, "deaf", **{"class": "own:Deaf", "journal": str(project.journal_file)})
    )
    project.work("--processes", "1").ready(1)
    (told,) = project.send("go")
    (entry,) = wait_until(lambda: project.journal("started"), 10, "it runs")
    assert cancel(project, told) == fates(told=[told])
    assert not project.streamed()
    os.kill(entry["pid"], signal.SIGKILL)
    project.until(delivered=1, running=0, waiting=0)
    result = project.by_id()[told]
    assert (result["outcome"], result["started_at"]) == ("cancelled", None)
    assert len(project.journal("started")) == 1


@pytest.mark.long
@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_a_filter_finds_what_waits_and_what_runs(project: Project) -> None:
    project.collection("toys", number=2)
    project.collection("other")
    grouped = [{"group_id": name, "task_id": f"t-{name}"} for name in "abcd"]
    send(project, toys=grouped, other=[{"group_id": "a", "task_id": "o-0"}, {"task_id": "o-1"}])
    with closing(project.open_store()) as store:
        cancel_all = partial(cancel_matching, store)
        found = [
            cancel_all(group_id="a"),
            cancel_all(group_id="a"),
            cancel_all(collection="toys", group_id="b"),
            cancel_all(queue="toys_0"),
        ]
    if project.settles_in_one_step:
        answered = [["o-0", "t-a"], [], ["t-b"], ["t-c"]]
        assert [sorted(each.cancelled) for each in found] == answered
    else:  # The worker that claims each task answers it.
        assert found == [CancelReport(is_unread=True)] * 4
    project.work("--processes", "1").ready(1)
    project.until(running=2)
    send(project, toys=[{"group_id": "d", "task_id": "t-behind"}])
    assert cancel(project, "--group", "d")["unknown"] == []
    assert cancel(project, "--all", "--yes") == fates(told=["o-1"])
    project.until(delivered=7, waiting=0, running=0)
    assert {result["outcome"] for result in project.by_id().values()} == {"cancelled"}


@pytest.mark.long
def test_the_command_says_what_it_needs(project: Project) -> None:
    project.collection("toys", number=2)
    project.send("echo a", "echo b")
    for args, said in (
        ((), "give task ids, or --group, --run, --collection, --queue or --all"),
        (("t-d", "--group", "d"), "give task ids, or --group"),
        (("--collection", "toy"), "no collection 'toy' on this broker: did you mean 'toys'?"),
        (("--queue", "toys"), "no agent 'toys' on this broker: did you mean 'toys_"),
        (("--all",), "--all cancels every task: confirm with --yes"),
    ):
        done = project.run("cancel", *args)
        assert (done.code, done.out) == (2, "")
        assert said in done.err
    assert cancel(project, "strange", code=1) == fates(unknown=["strange"])
    assert cancel(project, "strange", "tasks-0", code=5)["cancelled"] == ["tasks-0"]
    done = project.ok("cancel", "--all", "--yes")
    assert done.out == "1 cancelled, 0 running ones signalled\n"
    project.until(delivered=2, waiting=0)
