"""Many runs share one port, and no run sees another's requests."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from agentpipe.core.context import Context
from agentpipe.core.result import Result
from agentpipe.core.rollout import Rollout, recording
from agentpipe.core.task import Task
from agentpipe.engines.gateway import run_gateway
from agentpipe.engines.gateway.http_server import HOST
from agentpipe.errors import AgentFailed
from agentpipe.rollouts import samples
from tests.llm_stub import LlmStub, Reply, TokenIds, cut, fail

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from agentpipe.engines.gateway.gateway_of_run import RunGateway
    from tests.llm_stub import Request

RUNS, TURNS = 200, 3


def number_in(request: Request) -> int:
    return int(request.question)


def say_its_number(request: Request) -> Reply:
    """Answer with ids that identify the run and the turn."""
    turns = len(request.body["messages"]) // 2
    mine = 1_000 + number_in(request)
    prompt = [mine] * (2 * turns + 1)
    message = {"role": "assistant", "content": str(number_in(request))}
    return Reply(message, ids=TokenIds(prompt, [mine]))


async def talk(client: httpx2.AsyncClient, gateway: RunGateway, number: int) -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": str(number)}]
    for _ in range(TURNS):
        response = await client.post(
            gateway.env["OPENAI_BASE_URL"] + "/chat/completions",
            json={"model": "m", "messages": messages},
            headers={"Authorization": f"Bearer {gateway.env['OPENAI_API_KEY']}"},
        )
        said = response.json()["choices"][0]["message"]
        assert said["content"] == str(number)
        messages += [said, {"role": "user", "content": "go on"}]


async def one_run(client: httpx2.AsyncClient, url: str, number: int) -> Rollout:
    rollout = Rollout(required=True)
    with recording(rollout):
        context = Context({"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "k"})
        async with run_gateway(Task(question=str(number)), context, {}) as gateway:
            assert gateway is not None
            await talk(client, gateway, number)
    return rollout


def test_no_token_is_in_anothers_rollout() -> None:
    async def all_runs(url: str) -> list[Rollout]:
        limits = httpx2.Limits(max_connections=50)
        async with httpx2.AsyncClient(limits=limits, timeout=120) as client:
            return await asyncio.gather(*(one_run(client, url, n) for n in range(RUNS)))

    with LlmStub(say_its_number) as stub:
        rollouts = asyncio.run(all_runs(stub.url))
    for number, rollout in enumerate(rollouts):
        (sample,) = samples(Result(task_id="t", rollout=rollout.to_dict("stop")))
        assert set(sample.input_ids) == {1_000 + number}
        assert sample.loss_mask == [0, 1] * TURNS


def test_what_is_imported_after_a_run_finds_the_function() -> None:
    """Regression: the first run imported a module of the function's name, which hid it."""
    importlib.import_module("agentpipe.engines.gateway.gateway_of_run")
    package = importlib.import_module("agentpipe.engines.gateway")
    names = {each.name for each in pkgutil.iter_modules(package.__path__)}
    assert names.isdisjoint(package.__all__)


def test_a_url_ends_with_its_run() -> None:
    async def late(url: str) -> list[int]:
        with recording(Rollout()):
            context = Context({"OPENAI_BASE_URL": url})
            async with run_gateway(Task(), context, {}) as gateway:
                assert gateway is not None
        async with httpx2.AsyncClient(timeout=120) as client:
            paths = [gateway.base_url, gateway.base_url.partition("/t/")[0] + "/t/x"]
            asked = [client.post(f"{path}/v1/chat/completions", json={}) for path in paths]
            return [response.status_code for response in await asyncio.gather(*asked)]

    with LlmStub([]) as stub:
        assert asyncio.run(late(stub.url)) == [409, 409]
        assert not stub.requests


def test_what_is_no_http_ends_its_connection_only() -> None:
    async def disturbed(url: str) -> Rollout:
        rollout = Rollout()
        with recording(rollout):
            context = Context({"OPENAI_BASE_URL": url})
            client = httpx2.AsyncClient(timeout=120)
            async with run_gateway(Task(), context, {}) as gateway, client:
                assert gateway is not None
                port = int(gateway.base_url.split(":")[2].partition("/")[0])
                for noise in (b"\0\xff\r\n\r\n", b"GET /", b"POST / HTTP/1.1\r\n" + b"a" * 100_000):
                    reader, writer = await asyncio.open_connection(HOST, port)
                    writer.write(noise)
                    writer.write_eof()
                    assert b"200" not in await reader.read()
                    writer.close()
                await talk(client, gateway, 7)
        return rollout

    with LlmStub(say_its_number) as stub:
        assert asyncio.run(disturbed(stub.url)).is_exact


KEY = "sk-real-0123456789abcdef"
# Requests that would send the real key elsewhere, or bypass the recording.
ELSEWHERE = [
    ("POST", "/models/../../../admin/keys"),
    ("POST", "/embeddings/../fine_tuning/jobs"),
    ("POST", "/models/../chat/completions"),
    ("GET", "/models/.."),
    ("GET", "/models/%2e%2e/files"),
    ("GET", "/models/..%2f..%2fadmin"),
    ("GET", "/models/..\\x"),
    ("DELETE", "/models/ft:mine"),
    ("PUT", "/models/x"),
    ("GET", "/modelsX/evil"),
    ("GET", "/chat/completions"),
    ("POST", "/responses"),
    ("POST", "/files"),
]


async def exchange(base_url: str, head: str, body: bytes = b"") -> bytes:
    """The head of the response to a raw request that no client would send."""
    address, _, path = base_url.removeprefix("http://").partition("/")
    port = int(address.partition(":")[2])
    reader, writer = await asyncio.open_connection(HOST, port)
    text = head.format(path=f"/{path}") + f"host: x\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(text.encode("latin-1") + body)
    given = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return given


def through_a_run(url: str, ask: Callable[[RunGateway], Coroutine[Any, Any, Any]]) -> Any:
    async def run() -> Any:
        with recording(Rollout()):
            context = Context({"OPENAI_BASE_URL": url, "OPENAI_API_KEY": KEY})
            async with run_gateway(Task(), context, {}) as gateway:
                assert gateway is not None
                return await ask(gateway)

    return asyncio.run(run())


@pytest.mark.parametrize(("method", "path"), ELSEWHERE)
def test_the_real_key_goes_nowhere_else(method: str, path: str) -> None:
    async def ask(gateway: RunGateway) -> bytes:
        return await exchange(gateway.base_url, f"{method} {{path}}/v1{path} HTTP/1.1\r\n")

    with LlmStub([]) as stub:
        assert b" 404 " in through_a_run(stub.url, ask)
        assert not stub.requests


def test_a_key_that_the_server_repeats_is_masked() -> None:
    echo = fail(401, {"error": {"message": f"wrong key: Bearer {KEY}"}})

    async def ask(gateway: RunGateway) -> str:
        async with httpx2.AsyncClient(timeout=60) as client:
            response = await client.post(f"{gateway.base_url}/v1/chat/completions", json={})
        return response.text

    with LlmStub([echo]) as stub:
        text = through_a_run(stub.url, ask)
    assert "wrong key" in text
    assert KEY not in text


def test_a_request_of_no_run_is_refused_before_its_body() -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 60000000\r\n\r\n"

    async def ask(gateway: RunGateway) -> bytes:
        address = gateway.base_url.partition("/t/")[0]
        reader, writer = await asyncio.open_connection(HOST, int(address.rpartition(":")[2]))
        writer.write(head)
        given = await reader.read()  # Nothing was forwarded; the connection is closed.
        writer.close()
        return given

    with LlmStub([]) as stub:
        assert b" 401 " in through_a_run(stub.url, ask)


def test_json_that_takes_many_times_its_bytes_is_refused() -> None:
    body = b'{"messages": [' + b"{}," * 3_000_000 + b"{}]}"

    async def ask(gateway: RunGateway) -> bytes:
        return await exchange(
            gateway.base_url, "POST {path}/v1/chat/completions HTTP/1.1\r\n", body
        )

    with LlmStub([]) as stub:
        assert b" 400 " in through_a_run(stub.url, ask)
        assert not stub.requests


@pytest.mark.parametrize("header", ["authorization: Bearer \xe9", "x-api-key: \xe9-\xe9"])
def test_an_odd_key_is_refused(header: str) -> None:
    async def ask(gateway: RunGateway) -> bytes:
        base_url = gateway.base_url.partition("/t/")[0] + "/v1"
        return await exchange(base_url, f"POST {{path}}/chat/completions HTTP/1.1\r\n{header}\r\n")

    with LlmStub([]) as stub:
        assert b" 401 " in through_a_run(stub.url, ask)


def test_a_server_that_hangs_up_on_embeddings_is_told() -> None:
    async def ask(gateway: RunGateway) -> int:
        async with httpx2.AsyncClient(timeout=60) as client:
            return (await client.post(f"{gateway.base_url}/v1/embeddings", json={})).status_code

    with LlmStub([cut()]) as stub:
        assert through_a_run(stub.url, ask) == 502


def test_a_stream_that_breaks_is_the_servers_failure() -> None:
    """Regression: it was the agent's, as if its last request had not failed."""
    begun = Reply({"role": "assistant", "content": "four, I"}, unended=True)

    async def ask(gateway: RunGateway) -> None:
        async with httpx2.AsyncClient(timeout=60) as client:
            body = {"messages": [{"role": "user", "content": "?"}], "stream": True}
            response = await client.post(f"{gateway.base_url}/v1/chat/completions", json=body)
            raise ValueError(response.text)

    with LlmStub([begun]) as stub, pytest.raises(AgentFailed, match="ended before") as failed:
        through_a_run(stub.url, ask)
    assert failed.value.infra
