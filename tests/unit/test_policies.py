"""Policies: valid files, the server that a task asks, and who waits during a pause."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.config.collection import load
from agentpipe.core.held_time import HeldTime, counting
from agentpipe.core.loop_turns import done_within
from agentpipe.core.policy import PolicySpec, PolicyState, endpoint_for, endpoint_problem
from agentpipe.core.rollout import Rollout
from agentpipe.core.task import Task
from agentpipe.core.token_rows import Turn
from agentpipe.engines.policies import LivePolicy, RunPolicy, StillPaused
from agentpipe.errors import ConfigError
from tests.support import wait_until

if TYPE_CHECKING:
    from pathlib import Path

SPEC = PolicySpec("main", ("http://a/v1", "http://b/v1"), hold_s=0.05)
OPEN, PAUSED = PolicyState(SPEC, 3), PolicyState(SPEC, 3, paused=True, pauses=1)


def written(folder: Path, policy: str, collection: str = "policy: main") -> Path:
    (folder / "agent.yaml").write_text("kind: agent\nspec: {name: a, type: llm}\n")
    path = folder / "c.yaml"
    path.write_text(
        f"kind: policy\nspec: {policy}\n---\n"
        f"kind: collection\nspec: {{name: c, config: agent.yaml, {collection}}}\n"
    )
    return path


def test_a_collection_has_the_policy_that_it_names(tmp_path: Path) -> None:
    policy = "{name: main, model: 'local:a/b', endpoints: ['http://h'], batch: 4, max_staleness: 0}"
    (found,) = load(written(tmp_path, policy))
    assert found.policy == PolicySpec("main", ("http://h",), "a/b", 4, 0)
    assert found.record_tokens == "try"
    assert PolicySpec.decode(found.policy.encode()) == found.policy


@pytest.mark.parametrize(
    ("policy", "collection", "said"),
    [
        ("{name: main}", "policy: main", "c.yaml:2: spec.endpoints: missing"),
        ("{name: main, endpoints: []}", "policy: main", "expected a list"),
        ("{name: main, endpoints: ['http://h'], batch: 4}", "policy: main", "missing beside batch"),
        ("{name: main, endpoints: ['http://h'], bacth: 4}", "policy: main", "did you mean 'batch'"),
        ("{name: main, endpoints: ['http://h'], model: x}", "policy: main", "local:"),
        ("{name: main, endpoints: ['http://h']}", "policy: maim", "did you mean 'main'"),
        (
            "{name: main, endpoints: ['http://h']}",
            "policy: main, record: {tokens: 'off'}",
            "remove `record: {tokens: off}`",
        ),
        ("{name: main, endpoints: ['http://u:hunter2@h']}", "policy: main", "LOCAL_LLM_API_KEY"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, policy: str, collection: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, policy, collection))
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_an_invalid_policy_is_not_also_unknown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, "{name: main, endpoints: ['x']}"))
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    "url",
    ["", 7, "h", "ftp://h/", "http://", "http://u@h", "http://h:x/", "http://h:0/", "http://h:65536/",
     "http://h/?k=1", "http://h/#",
     "http://h/a b", "http://h/\n", "http://[::1", "http://h/" + "a" * 2_000],
)  # fmt: skip
def test_what_is_no_endpoint(url: Any) -> None:
    assert endpoint_problem(url)


def test_others_keep_their_server_where_one_goes() -> None:
    endpoints = [f"http://s{n}/v1" for n in range(5)]
    keys = [f"task-{n}" for n in range(2_000)]
    before = {key: endpoint_for(endpoints, key) for key in keys}
    after = {key: endpoint_for(endpoints[1:], key) for key in keys}
    assert all(after[key] == before[key] for key in keys if before[key] != endpoints[0])
    assert all(300 < number < 500 for number in Counter(before.values()).values())


def test_members_of_a_group_share_the_cache_of_their_prompt() -> None:
    async def places() -> set[str]:
        live, found = LivePolicy("main", OPEN), set()
        for n in range(20):
            task = Task(question="q", task_id=f"g/{n}", group_id="g")
            async with RunPolicy(live, task, "").request() as lease:
                found.add(lease.base_url)
        return found

    assert len(asyncio.run(places())) == 1


def test_a_request_waits_from_pause_to_resume_and_gets_what_holds_then() -> None:
    def resume(live: LivePolicy, run: RunPolicy) -> None:
        wait_until(lambda: run.held.is_held, 20, "the request waits")
        live.follow(PolicyState(SPEC, 9))

    async def asked() -> tuple[int | None, float]:
        live = LivePolicy("main")
        run = RunPolicy(live, Task(question="q"), "")
        live.follow(PAUSED)
        threading.Thread(target=resume, args=(live, run)).start()
        async with run.request(patient=True) as lease:
            assert live.report == (0, 1)
        assert live.report == (0, 0)
        return lease.version, run.held.seconds

    version, held_s = asyncio.run(asked())
    assert version == 9
    assert 0 < held_s < 20


def test_beyond_hold_s_the_run_stays_held_until_the_pause_ends() -> None:
    async def asked() -> None:
        live = LivePolicy("main", PAUSED)
        run = RunPolicy(live, Task(question="q"), "")
        with pytest.raises(StillPaused):
            async with run.request():
                pytest.fail("it was let through")
        assert run.held.is_held
        live.follow(OPEN)
        assert not run.held.is_held

    asyncio.run(asked())


def test_a_cancelled_request_waits_no_more() -> None:
    async def asked() -> None:
        live = LivePolicy("main", PAUSED)
        run = RunPolicy(live, Task(question="q"), "")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), run.request(patient=True):
                pytest.fail("it was let through")
        assert not run.held.is_held
        live.follow(OPEN)
        assert live.report == (0, 0)

    asyncio.run(asked())


def test_trainers_hear_of_a_pause_and_of_its_last_request() -> None:
    async def asked() -> list[tuple[int, int]]:
        live, heard = LivePolicy("main", OPEN), list[tuple[int, int]]()
        live.noted = lambda: heard.append(live.report)
        async with RunPolicy(live, Task(question="q"), "").request():
            live.follow(PAUSED)
        live.follow(OPEN)
        return heard

    assert asyncio.run(asked())[:2] == [(1, 1), (1, 0)]


def test_held_time_counts_once_and_not_towards_a_limit() -> None:
    async def run(held: HeldTime) -> bool:
        held.begin()
        held.begin()
        work = asyncio.ensure_future(asyncio.sleep(0.5))
        for _ in range(2):
            work.add_done_callback(lambda _: held.end())
        with counting(held):
            return await done_within(work, 0.05)

    held = HeldTime()
    assert asyncio.run(run(held))
    assert 0.4 < held.seconds < 20
    assert not held.is_held


def test_time_that_is_not_held_does_count() -> None:
    async def run() -> bool:
        held = HeldTime()
        held.begin()
        held.end()
        with counting(held):
            return await done_within(asyncio.ensure_future(asyncio.sleep(60)), 0.05)

    assert not asyncio.run(run())


def test_turns_have_the_version_that_they_were_asked_with() -> None:
    rollout = Rollout(policy_version=1)
    said: dict[str, Any] = {"engine": "e", "model": "m"}
    rollout.add(Turn([1], [2, 3], [0.0, 0.0]), version=7, **said)
    rollout.add(None, version=6, **said)
    rollout.add(Turn([1, 2, 3, 4], [5], [0.0], versions=[(9, 0, 1)]), version=8, **said)
    record = rollout.to_dict("stop")
    turns = record["segments"][0]["turns"]
    assert [turn["versions"] for turn in turns] == [[(7, 1, 3)], [(9, 4, 5)]]
    assert record["versions"] == [6, 9]
