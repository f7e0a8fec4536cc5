"""prime-rl's environment client on our server, with real workers and a server of token ids.

Run by `make test-prime-rl`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from verifiers.v1.configs.client import TrainClientConfig
from verifiers.v1.configs.env import EnvConfig
from verifiers.v1.serve.client import EnvClient
from verifiers.v1.types import SamplingConfig
from verifiers.v1.utils.loaders import load_taskset

from agentpipe import Policy
from agentpipe.brokers import open_store
from agentpipe.sinks.stream import Stream
from tests.llm_stub import LlmStub
from tests.support import wait_until
from tests.trainers.environment import EVALUATORS, MODEL, Engine, Place

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

PATIENCE_S = 60
ASKED = 16
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    engine = Engine()
    with LlmStub(engine) as stub:
        found = Place(tmp_path, engine, stub.url)
        found.write()
        yield found
        found.stop()


def task(question: str, **more: Any) -> dict[str, Any]:
    return {"idx": 3, "prompt": question, "evaluators": EVALUATORS, "level": "easy", **more}


async def run(client: EnvClient, place: Place, data: dict[str, Any], **more: Any) -> Any:
    sampling = {"temperature": 0.5, "max_tokens": 9, "logprobs": True, **more.pop("sampling", {})}
    known = {"base_url": place.url, "model": MODEL, **more}
    async with asyncio.timeout(PATIENCE_S):
        return await client.run(
            client=TrainClientConfig(base_url=known["base_url"], api_key_var="NONE"),
            model=known["model"],
            sampling=SamplingConfig(**sampling),
            task_data=data,
        )


def with_client(address: str, use: Callable[[EnvClient], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        client = EnvClient(address)
        try:
            await client.wait_for_server_startup(timeout=PATIENCE_S)
            return await use(client)
        finally:
            await client.close()

    return asyncio.run(main())


def assert_as_served(place: Place, episode: Any) -> None:
    (trace,) = episode.traces
    ids, mask, logprobs, reward = place.engine.row(trace.id)
    (branch,) = trace.branches
    assert branch.token_ids == ids
    assert branch.sampled_mask == mask
    assert branch.logprobs == pytest.approx(logprobs, abs=1e-6)
    assert trace.reward == reward
    assert (episode.ok, trace.ok, trace.is_completed) == (True, True, True)


def test_an_episode_is_what_was_sampled(place: Place) -> None:
    place.work()
    _, address = place.serve()
    data = task("hard", name="one")

    async def use(client: EnvClient) -> Any:
        assert await client.health()
        asked = (run(client, place, data, sampling={"cache_salt": "7"}) for _ in range(8))
        return await asyncio.gather(*asked)

    episodes = with_client(address, use)
    assert len({episode.id for episode in episodes}) == 8
    for episode in episodes:
        assert_as_served(place, episode)
        (trace,) = episode.traces
        roles = [node.message.role for node in trace.nodes]
        assert roles == ["user", "assistant", "user", "assistant"]
        assert trace.nodes[2].message.content == "sure?"
        assert trace.last_reply == ("yes" if trace.reward else "no")
        assert (trace.num_turns, trace.is_truncated) == (2, False)
        assert trace.num_output_tokens == sum(trace.branches[0].sampled_mask)
        assert trace.num_total_tokens == len(trace.branches[0].token_ids)
        assert episode.task.data.model_dump(exclude_unset=True) == data
        asked = place.engine.bodies[trace.id]
        assert (asked["model"], asked["temperature"], asked["max_completion_tokens"]) == (
            MODEL,
            0.5,
            9,
        )
    assert {trace.reward for episode in episodes for trace in episode.traces} == {0.0, 1.0}
    with Policy.open("main", place.settings) as policy:
        assert policy.version == 7
    with Stream.open(place.settings, start="beginning", timeout_s=1) as stream:
        assert len({result.group_id for result in stream}) == 1


def test_a_killed_worker_costs_no_episode(place: Place) -> None:
    place.retries = 1
    place.write()
    place.work()
    _, address = place.serve()
    killed: list[int] = []

    def kill(_: str) -> None:
        if len(place.engine.turns) > 4 and not killed:
            with closing(open_store(place.settings)) as store:
                killed.append(store.stats().workers[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    place.engine.on_request = kill

    async def use(client: EnvClient) -> Any:
        return await asyncio.gather(*(run(client, place, task(f"q{n}")) for n in range(16)))

    episodes = with_client(address, use)
    assert killed
    for episode in episodes:
        assert_as_served(place, episode)


def test_a_server_that_is_started_again_answers_what_was_asked_before(place: Place) -> None:
    """prime-rl waits for all episodes it has requested: its client sends nothing meanwhile."""
    server, address = place.serve()
    port = int(address.rpartition(":")[2])

    def restart() -> None:
        nonlocal server
        server.kill()
        server.wait()
        server, _ = place.serve(port=port)

    def kill_now_and_then() -> None:
        with closing(open_store(place.settings)) as store:
            wait_until(lambda: store.stats().waiting == ASKED, PATIENCE_S, "all are tasks")
        restart()
        place.work()
        for turns in range(ASKED // 2, 2 * ASKED, ASKED // 2):
            wait_until(partial(is_at, turns), PATIENCE_S, f"{turns} turns")
            restart()

    def is_at(turns: int) -> bool:
        return sum(map(len, [*place.engine.turns.values()])) >= turns

    async def use(client: EnvClient) -> Any:
        asked = [asyncio.create_task(run(client, place, task("q"))) for _ in range(ASKED)]
        await asyncio.sleep(0)
        await asyncio.to_thread(kill_now_and_then)
        return await asyncio.gather(*asked)

    for episode in with_client(address, use):
        assert_as_served(place, episode)
        assert episode.task.data.level == "easy"
    assert Counter(map(len, place.engine.turns.values())) == {2: ASKED}


def test_a_failure_is_an_error_and_never_a_reward(place: Place) -> None:
    place.work()
    _, address = place.serve()

    async def use(client: EnvClient) -> Any:
        failed, unjudged = await asyncio.gather(
            run(client, place, task("fails")), run(client, place, task("q", evaluators=[]))
        )
        return failed, unjudged

    for episode, kind in zip(with_client(address, use), ("infra_error", "ok"), strict=True):
        assert (episode.ok, episode.traces) == (False, [])
        assert [error.type for error in episode.errors] == [kind]
        assert episode.last_error.message


def test_a_cancelled_request_cancels_its_task(place: Place) -> None:
    place.work()
    _, address = place.serve()

    async def use(client: EnvClient) -> Any:
        asked = asyncio.create_task(run(client, place, task("held")))
        await asyncio.to_thread(place.engine.held.wait, PATIENCE_S)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        with closing(open_store(place.settings)) as store:
            ended = partial(wait_until, lambda: not store.stats().running, PATIENCE_S, "it ends")
            await asyncio.to_thread(ended)
        place.engine.held.clear()
        asked = asyncio.create_task(run(client, place, task("held")))
        await asyncio.to_thread(place.engine.held.wait, PATIENCE_S)
        place.start("cancel", "--run", "twice").wait(PATIENCE_S)
        with pytest.raises(RuntimeError, match="Cancelled"):
            await asked
        return await run(client, place, task("q"))

    assert_as_served(place, with_client(address, use))
    with Stream.open(place.settings, start="beginning", timeout_s=1) as stream:
        assert [result.outcome for result in stream] == ["cancelled", "cancelled", "ok"]


def test_what_the_trainer_asks_for_and_cannot_have_is_told(place: Place) -> None:
    _, address = place.serve()

    async def use(client: EnvClient) -> list[str]:
        told = []
        for data, more in (
            (task("q"), {"model": "other"}),
            (task("q"), {"base_url": "http://127.0.0.1:1/v1"}),
            (task("q"), {"sampling": {"min_tokens": 3}}),
            (task("q"), {"sampling": {"temperature": -1}}),
            ({"idx": 0}, {}),
            (task("q", evaluators=[{"func": "nothing", "op": "=", "value": 1}]), {}),
        ):
            with pytest.raises(RuntimeError) as raised:
                await run(client, place, data, **more)
            told.append(str(raised.value))
        return told

    model, url, setting, value, prompt, evaluator = with_client(address, use)
    assert "policy 'main' serves 'tiny'" in model
    assert "not an endpoint of policy 'main'" in url
    assert "min_tokens" in setting
    assert "temperature" in value
    assert "neither a question nor a prompt" in prompt
    assert "nothing" in evaluator


HOSTILE = [
    b"",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 4,
    b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"PLAIN".ljust(20, b"\0") + bytes(32),
    b"\xff" + bytes(8) + b"\x7f\x01\x00" + bytes(52),
    os.urandom(4096),
]
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
HOSTILE += [
    GREETING,
    GREETING + b"\x04\x03abc",
    GREETING + READY + b"\x02" + b"\xff" * 8,
    GREETING + READY + b"\xf8",
    GREETING + READY + b"\x01\x00" * 100,
    GREETING + READY + b"\x00\x03abc",
    GREETING + READY + b"\x01\x01a\x01\x03run\x00\x05\xdf\xff\xff\xff\xff",
    GREETING + READY + b"\x01\x01a\x01\x03run\x00\x01\xc0",
    GREETING + READY + b"\x01\x01a\x01\x03run\x00\x02\x80\x80",
    GREETING + READY + b"\x01\x05a/b\n\x80\x01\x03run\x00\x01\x80",
    GREETING + READY + b"\x01\x01a\x01\x06cancel\x00\x01\x80",
    GREETING + READY + b"\x01\x01a\x01\x04\xff\xfe\x00\x01\x00\x01\x80",
    GREETING
    + READY
    + b"\x01\x01a\x01\x06health\x02"
    + (70_000).to_bytes(8, "big")
    + b"\x91" * 70_000,
]


def test_hostile_bytes_end_their_own_connection_at_most(place: Place) -> None:
    server, address = place.serve()
    port = int(address.rpartition(":")[2])

    async def use(client: EnvClient) -> Any:
        for data in HOSTILE:
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
                connection.sendall(data)
            assert await client.health()
        return await client.health()

    assert with_client(address, use)
    assert server.poll() is None


def test_a_taskset_reads_a_file_of_tasks(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    lines = [{"question": f"q{number}", "evaluators": EVALUATORS} for number in range(3)]
    file = place.folder / "tasks.jsonl"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    taskset = {"id": "agentpipe-tasks", "path": str(file)}
    tasks = list(load_taskset(EnvConfig.model_validate({"taskset": taskset}).taskset))
    place.work()
    _, address = place.serve()

    async def use(client: EnvClient) -> Any:
        rows = [task.data.model_dump(mode="json") for task in tasks]
        return await asyncio.gather(*(run(client, place, row) for row in rows))

    episodes = with_client(address, use)
    for episode, line, number in zip(episodes, lines, range(3), strict=True):
        assert_as_served(place, episode)
        data = episode.task.data
        assert (data.question, data.evaluators, data.idx) == (*line.values(), number)


def test_a_second_server_of_a_name_is_refused_and_a_collection_without_versions_too(
    place: Place,
) -> None:
    place.serve()
    collection = place.folder / "collection.yaml"
    for change, said in (
        ("", "'twice'"),
        ("  policy: main\n", "add `policy: NAME`"),
        ("  record: {tokens: require}\n", "add `policy: NAME`"),
    ):
        place.write()
        collection.write_text(collection.read_text().replace(change, ""))
        second = place.start("serve-env", "--port", "0")
        assert second.wait(PATIENCE_S) == 2
        assert said in (place.folder / "serve-env.log").read_text().splitlines()[-1]
