"""What a recorded run that fails is said to have failed of: its model's server, or itself."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from agentpipe.core import caps
from agentpipe.core.context import Context
from agentpipe.core.failures import is_infra, is_permanent, rate_limit
from agentpipe.core.rollout import Rollout, recording
from agentpipe.core.task import Task
from agentpipe.engines.gateway import model_calls, run_gateway
from agentpipe.errors import (
    AgentCrashed,
    AgentFailed,
    InfraError,
    RunLimitExceeded,
    TimeLimitExceeded,
)
from tests.llm_stub import ANTHROPIC, LlmStub, Reply, TokenIds, cut, fail, hang, say, send

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tests.llm_stub import Request

OVERFLOW = {"error": {"code": "context_length_exceeded", "message": "Too long."}}
MESSAGES = [{"role": "user", "content": "?"}]


@dataclass
class Agent:
    """An agent of a recorded run, and its client.

    Attributes:
        seen: The status and text of each answer.
    """

    base_url: str
    client: httpx2.AsyncClient
    protocol: str = "openai"
    stream: bool = False
    seen: list[tuple[int, str]] = field(default_factory=list)

    async def ask(self, path: str = "", *, timeout_s: float = 60, **more: Any) -> str:
        paths = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}
        body = {"model": "m", "messages": MESSAGES, "max_tokens": 9, "stream": self.stream, **more}
        url = self.base_url + (path or paths[self.protocol])
        response = await self.client.post(url, json=body, timeout=timeout_s)
        self.seen.append((response.status_code, response.text))
        return response.text


def end_of_run(
    script: Sequence[Reply] | Callable[[Request], Reply],
    act: Callable[[Agent], Awaitable[Any]],
    way: str = "openai",
    env: dict[str, str] | None = None,
    rollout: Rollout | None = None,
) -> Exception:
    """What the run of an agent that does ``act``, and then fails, ends with."""
    protocol, _, stream = way.partition(" ")

    async def run(url: str) -> None:
        urls = {"OPENAI_BASE_URL": url, "ANTHROPIC_BASE_URL": url.removesuffix("/v1")}
        context = Context({"OPENAI_API_KEY": "sk-of-the-run-0123", **urls, **(env or {})})
        with recording(rollout or Rollout()):
            async with httpx2.AsyncClient() as client, run_gateway(Task(), context, {}) as gateway:
                assert gateway is not None
                await act(Agent(gateway.base_url, client, protocol, stream=bool(stream)))
                raise ValueError("the agent's own")

    with LlmStub(script) as stub, pytest.raises(Exception) as ended:  # noqa: PT011 - it is returned
        asyncio.run(run(stub.url))
    return ended.value


async def ask(agent: Agent) -> None:
    """Ask once; a failure of the connection is the agent's to report."""
    with suppress(httpx2.HTTPError):
        await agent.ask()


async def wait_in_vain(agent: Agent) -> None:
    """Ask, and fail because the server takes longer than this waits."""
    await agent.ask(timeout_s=0.2)


async def give_up(agent: Agent) -> None:
    """The same, but go on."""
    with pytest.raises(httpx2.TimeoutException):
        await wait_in_vain(agent)


@pytest.fixture(
    params=[
        "openai",
        *(pytest.param(it, marks=pytest.mark.long) for it in ("openai stream", "anthropic")),
        "anthropic stream",
    ]
)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients give up after a fifth of a second here."""
    monkeypatch.setattr(model_calls, "MIN_SILENCE_S", 0.1)


# Kinds of failures: as those of an agent of type llm, in test_llm_answers.py.


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (fail(500), "ModelServerError"),
        (fail(502, b"<html>Bad Gateway</html>"), "ModelServerError"),
        (fail(503), "ModelUnavailableError"),
        (fail(504), "ModelServerError"),
        (fail(408), "ModelServerError"),
        (fail(409), "ModelServerError"),
        (fail(425), "ModelServerError"),
        (cut(), "ModelConnectionError"),
        (send(b"<html>It works!</html>"), "UnreadableResponse"),
        (send(b'{"choices": [{"message": {"cont'), "UnreadableResponse"),
        (send(b""), "UnreadableResponse"),
        (send({"error": {"message": "overloaded", "code": 502}}), "ModelServerError"),
        (send({"detail": "no healthy upstream"}), "ModelServerError"),
        (say("so far", finish="error"), "IncompleteResponse"),
        (say("so far", finish="abort"), "IncompleteResponse"),
        (say("so far", finish="timeout"), "IncompleteResponse"),
    ],
)
def test_a_failing_server_is_no_error_of_the_agent(way: str, reply: Reply, kind: str) -> None:
    failed = end_of_run([reply], ask, way)
    assert isinstance(failed, AgentFailed)
    assert (failed.kind, is_infra(failed), is_permanent(failed)) == (kind, True, False)


@pytest.mark.parametrize("more", [{"choices": []}, {"choices": None}, {"choices": [{}]}])
def test_a_completion_without_an_answer_is_no_error_of_the_agent(more: dict[str, Any]) -> None:
    failed = end_of_run([say("-", more=more)], ask)
    assert isinstance(failed, AgentFailed)
    assert (failed.kind, failed.infra) == ("UnreadableResponse", True)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, "ModelAuthenticationError"),
        (403, "ModelAuthenticationError"),
        (402, "ModelQuotaExceededError"),
        (404, "ModelNotFoundError"),
    ],
)
def test_a_refused_key_or_model_is_a_failure_of_the_set_up(
    way: str, status: int, kind: str
) -> None:
    failed = end_of_run([fail(status)], ask, way)
    assert isinstance(failed, AgentFailed)
    assert (failed.kind, failed.permanent) == (kind, True)


@pytest.mark.parametrize("status", [429, 529])
def test_a_rate_limit_is_a_rate_limit(way: str, status: int) -> None:
    limit = rate_limit(end_of_run([fail(status, retry_after=7)], ask, way))
    assert limit is not None
    assert (limit.asked_s, limit.of_credential) == (7, True)


def test_a_redirect_to_another_server_is_a_failure_of_the_set_up(way: str) -> None:
    elsewhere = Reply(status=308, headers={"Location": "http://127.0.0.1:9/v1"}, raw=b"")
    failed = end_of_run([elsewhere], ask, way)
    assert isinstance(failed, AgentFailed)
    assert (failed.kind, failed.permanent) == ("ModelRedirected", True)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/v1", "http://no-such-host.invalid/v1"])
def test_a_server_that_cannot_be_reached_is_no_error_of_the_agent(url: str) -> None:
    failed = end_of_run([], ask, env={"OPENAI_BASE_URL": url})
    assert isinstance(failed, AgentFailed)
    assert (failed.kind, failed.infra) == ("ModelConnectionError", True)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/v1?key=x",
        "http://127.0.0.1:9/v1#x",
        "127.0.0.1:9/v1",
        "http://h:port/v1",
    ],
)
def test_a_wrong_address_is_a_failure_of_the_set_up(url: str) -> None:
    failed = end_of_run([], ask, env={"OPENAI_BASE_URL": url})
    assert isinstance(failed, AgentFailed)
    assert (failed.kind, failed.permanent) == ("ConfigError", True)
    assert str(failed).startswith("OPENAI_BASE_URL: ")


def test_what_the_agent_asks_wrong_is_its_own_error(way: str) -> None:
    rejected = end_of_run([fail(400, {"error": {"message": "unknown role"}})], ask, way)
    assert isinstance(rejected, AgentFailed)
    assert not is_infra(rejected)


# Limits.


@pytest.mark.parametrize(
    "error",
    [
        OVERFLOW,  # OpenAI, then vLLM, Anthropic, llama.cpp, and a server that says it plainly.
        {"object": "error", "message": "This model's maximum context length is 4096 tokens."},
        {"type": "error", "error": {"message": "prompt is too long: 208310 tokens > 200000"}},
        {"error": {"type": "exceed_context_size_error", "message": "context size", "code": 400}},
        {"detail": "input is too long"},
    ],
)
def test_a_conversation_beyond_the_context_window_is_a_limit(
    way: str, error: dict[str, Any]
) -> None:
    ended = end_of_run([fail(400, error)], ask, way)
    assert isinstance(ended, RunLimitExceeded)
    assert ended.stop == "length"


def test_a_conversation_that_fills_the_context_window_is_a_limit(way: str) -> None:
    async def read(agent: Agent) -> None:
        assert "so far" in (await agent.ask()).replace('"}}]}', "") or agent.stream

    full = say("so far", finish="model_context_window_exceeded")
    assert isinstance(end_of_run([full], read, way), RunLimitExceeded)


def test_an_agent_that_shortens_its_conversation_goes_on() -> None:
    async def act(agent: Agent) -> None:
        await agent.ask()
        await agent.ask()
        assert [status for status, _ in agent.seen] == [400, 200]

    ended = end_of_run([fail(400, OVERFLOW), say("better")], act)
    assert isinstance(ended, ValueError)


def test_a_request_that_is_too_large_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentpipe.engines.gateway.http_server.MAX_REQUEST_BYTES", 10_000)
    monkeypatch.setattr(caps, "MAX_REQUEST_BYTES", 10_000)

    async def act(agent: Agent) -> None:
        try:
            await agent.ask(padding="x" * 20_000)
        except httpx2.HTTPError:  # The gateway closes the connection, perhaps while it is written.
            return
        assert agent.seen[0][0] == 413

    assert isinstance(end_of_run([], act), RunLimitExceeded)


# Clients that do not wait.


@pytest.mark.usefixtures("brief")
def test_a_server_that_hangs_until_its_client_gives_up_has_failed(way: str) -> None:
    failed = end_of_run([hang()], wait_in_vain, way)
    assert isinstance(failed, AgentFailed)
    assert (failed.kind, failed.infra) == ("ModelTimeout", True)


@pytest.mark.usefixtures("brief")
def test_a_stream_that_stops_until_its_client_gives_up_has_failed() -> None:
    silent = threading.Event()

    def begun() -> Any:
        yield {"choices": [{"index": 0, "delta": {"content": "four"}}]}
        silent.wait(30)

    async def act(agent: Agent) -> None:
        try:
            await wait_in_vain(agent)
        finally:
            silent.set()

    failed = end_of_run([Reply(events=begun())], act, "openai stream")
    assert isinstance(failed, AgentFailed)
    assert failed.kind == "ModelTimeout"


@pytest.mark.usefixtures("brief")
def test_an_answer_after_its_client_gave_up_came_too_late() -> None:
    late = threading.Event()

    async def act(agent: Agent) -> None:
        await give_up(agent)
        late.set()
        await agent.client.get(f"{agent.base_url}/v1/models")  # The stub answers 501 to a GET.

    failed = end_of_run([replace(say("late"), after=late)], act)
    assert is_infra(failed)


@pytest.mark.usefixtures("brief")
def test_an_agent_that_asks_again_and_is_answered_fails_of_itself() -> None:
    async def act(agent: Agent) -> None:
        await give_up(agent)
        await agent.ask()

    assert isinstance(end_of_run([hang(), say("now")], act), ValueError)


def test_a_client_that_hangs_up_at_once_did_not_give_up() -> None:
    async def act(agent: Agent) -> None:
        asking = asyncio.ensure_future(agent.ask())
        await asyncio.to_thread(asked.wait, 30)
        asking.cancel()
        await asyncio.wait({asking})

    def script(_: Request) -> Reply:
        asked.set()
        return hang()

    asked = threading.Event()
    assert isinstance(end_of_run(script, act), ValueError)


@pytest.mark.usefixtures("brief")
def test_a_request_that_goes_on_says_nothing() -> None:
    async def act(agent: Agent) -> None:
        asking.append(asyncio.ensure_future(agent.ask()))
        await asyncio.to_thread(asked.wait, 30)
        await asyncio.sleep(2 * model_calls.MIN_SILENCE_S)

    def script(_: Request) -> Reply:
        asked.set()
        return hang()

    asking: list[Any] = []
    asked = threading.Event()
    assert isinstance(end_of_run(script, act), ValueError)


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize(
    "error",
    [
        TimeLimitExceeded(3),
        AgentCrashed("the agent's process was killed by signal 9 during a run"),
        AgentFailed("agent.sh was killed by signal 11: "),
        AgentFailed("no such tool", kind="LookupError"),
        ExceptionGroup("unhandled errors in a TaskGroup", [LookupError("no such tool")]),
    ],
)
def test_a_request_that_was_open_at_the_end_is_not_to_blame(error: Exception) -> None:
    async def act(agent: Agent) -> None:
        await give_up(agent)
        raise error

    assert end_of_run([hang()], act) is error


@pytest.mark.usefixtures("brief")
def test_a_mistake_that_ends_other_requests_is_the_agents() -> None:
    async def err() -> None:
        await asyncio.to_thread(asked.wait, 30)
        await asyncio.sleep(2 * model_calls.MIN_SILENCE_S)
        raise LookupError("no such tool")

    async def act(agent: Agent) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(agent.ask())
            group.create_task(err())

    def script(_: Request) -> Reply:
        asked.set()
        return hang()

    asked = threading.Event()
    assert isinstance(end_of_run(script, act), ExceptionGroup)


@pytest.mark.parametrize("error", [TimeLimitExceeded(3), AgentCrashed("it was killed")])
def test_a_time_limit_and_a_crash_stay_after_a_failure_too(error: Exception) -> None:
    async def act(agent: Agent) -> None:
        await agent.ask()
        raise error

    assert end_of_run([fail(503)], act) is error


def test_a_connection_that_is_reset_in_an_answer_is_not_the_gateways_error() -> None:
    closed = threading.Event()

    def events() -> Any:
        yield {"choices": [{"index": 0, "delta": {"content": "four"}}]}
        closed.wait(30)

    async def act(agent: Agent) -> None:
        reader, writer = await raw_request(agent)
        await reader.readuntil(b"four")
        reset = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        writer.close()
        await writer.wait_closed()
        for _ in range(100):  # The gateway, on this loop, sees the end of its connection.
            await asyncio.sleep(0)

    try:
        ended = end_of_run([Reply(events=events())], act, "openai stream")
    finally:
        closed.set()
    assert isinstance(ended, ValueError)


async def raw_request(agent: Agent) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request as a client of its own; the response has yet to be read."""
    url = httpx2.URL(agent.base_url)
    body = json.dumps({"model": "m", "messages": MESSAGES, "stream": agent.stream}).encode()
    head = f"POST {url.path}/v1/chat/completions HTTP/1.1\r\nhost: h\r\ncontent-length: {len(body)}"
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(head.encode() + b"\r\n\r\n" + body)
    return reader, writer


def test_a_client_that_closes_its_half_of_the_connection_is_told_of_a_failure() -> None:
    asked = threading.Event()

    async def act(agent: Agent) -> None:
        reader, writer = await raw_request(agent)
        writer.write_eof()
        asked.set()
        assert b"503" in await reader.readline()
        writer.close()
        raise TimeoutError("the agent's own")

    failed = end_of_run([replace(fail(503), after=asked)], act)
    assert isinstance(failed, AgentFailed)
    assert failed.kind == "ModelUnavailableError"


# Requests beside each other.


def test_the_failure_of_one_request_is_not_that_of_a_later_one() -> None:
    """Regression: requests to one server shared the note of their failure."""
    failed, begun = threading.Event(), threading.Event()

    def script(request: Request) -> Reply:
        if request.body["max_tokens"] == 1:
            begun.set()
            return replace(say("well"), after=failed)
        return fail(503)

    async def act(agent: Agent) -> None:
        good = asyncio.ensure_future(agent.ask(max_tokens=1))
        assert await asyncio.to_thread(begun.wait, 30)
        await agent.ask(max_tokens=2)
        failed.set()
        await good
        assert [status for status, _ in agent.seen] == [503, 200]

    assert isinstance(end_of_run(script, act), ValueError)


def test_a_service_that_the_agent_names_counts_more_than_its_own_mistake() -> None:
    async def act(agent: Agent) -> None:
        await agent.ask()
        raise InfraError("the database is away")

    ended = end_of_run([fail(400, {"error": {"message": "unknown role"}})], act)
    assert isinstance(ended, InfraError)


@pytest.mark.parametrize(
    "error",
    [
        InfraError("no license", permanent=True),
        AgentFailed("no license", permanent=True),
        OSError(errno.ENOSPC, "no space left"),
        AgentFailed("no space left", shortage="disk space"),
    ],
)
def test_a_wrong_set_up_or_a_shortage_counts_more_than_a_failed_service(error: Exception) -> None:
    async def act(agent: Agent) -> None:
        await agent.ask()
        raise error

    assert end_of_run([fail(503)], act) is error


# Requests that are not recorded.


def test_embeddings_that_look_like_a_key_are_passed_on_as_they_are() -> None:
    """Regression: the gateway masked what looks like a key of a known service."""
    embedding = "q83/AIza" + "x" * 35 + "+/w=="

    async def act(agent: Agent) -> None:
        assert embedding in await agent.ask("/v1/embeddings")

    answer = send({"data": [{"embedding": embedding}]})
    assert isinstance(end_of_run([answer], act), ValueError)


def test_embeddings_that_fail_are_no_error_of_the_agent() -> None:
    async def act(agent: Agent) -> None:
        await agent.ask("/v1/embeddings")

    failed = end_of_run([fail(503)], act)
    assert isinstance(failed, AgentFailed)
    assert failed.kind == "ModelUnavailableError"


def test_a_path_that_a_server_lacks_is_no_failure() -> None:
    async def act(agent: Agent) -> None:
        await agent.ask("/v1/messages/count_tokens")

    assert isinstance(end_of_run([fail(404)], act), ValueError)


# Streams.


def test_a_stream_ends_with_its_end_though_the_server_stays() -> None:
    """Regression: the gateway waited for the end of the connection."""
    closed = threading.Event()

    def events() -> Any:
        yield {"choices": [{"index": 0, "delta": {"content": "four"}, "finish_reason": "stop"}]}
        yield b"[DONE]"
        closed.wait(60)

    async def act(agent: Agent) -> None:
        assert (await agent.ask(timeout_s=10)).endswith("data: [DONE]\n\n")
        closed.set()

    ended = end_of_run([Reply(events=events())], act, "openai stream")
    assert isinstance(ended, ValueError)


def test_an_answer_that_its_server_gave_up_does_not_look_whole() -> None:
    async def act(agent: Agent) -> None:
        with pytest.raises(httpx2.RemoteProtocolError):
            await agent.ask()

    end_of_run([say("so far", finish="error")], act, "openai stream")


@pytest.mark.parametrize("finish", ["abort", "error"])
def test_an_answer_that_its_server_gave_up_is_no_turn(finish: str) -> None:
    """Regression: the answer to the next request began a second segment."""
    abandoned = replace(say("so", finish=finish), ids=TokenIds([1, 2], [3]))
    whole = replace(say("four"), ids=TokenIds([1, 2], [4, 5]))
    rollout = Rollout()

    async def act(agent: Agent) -> None:
        await agent.ask()
        await agent.ask()
        assert [status for status, _ in agent.seen] == [502, 200]

    end_of_run([abandoned, whole], act, rollout=rollout)
    (segment,) = rollout.to_dict("stop")["segments"]
    assert (segment["token_ids"], rollout.is_exact) == ([1, 2, 4, 5], True)


def test_a_stream_that_its_server_gave_up_is_a_gap() -> None:
    rollout = Rollout()
    abandoned = replace(say("so far", finish="abort"), ids=TokenIds([1, 2], [3, 4]))
    end_of_run([abandoned], ask, "openai stream", rollout=rollout)
    given = rollout.to_dict("stop")
    assert (given["segments"], len(given["gaps"])) == ([], 1)


def test_an_event_without_data_is_a_broken_stream_and_not_its_end() -> None:
    """Regression: the empty text was taken for the end of Anthropic's streams."""
    first, *rest = ANTHROPIC.events(say("four"), {"model": "m"})
    failed = end_of_run([Reply(events=[first, b"", *rest])], ask, "anthropic stream")
    assert isinstance(failed, AgentFailed)
    assert (failed.kind, failed.infra) == ("UnreadableResponse", True)


def test_calls_before_tools_are_passed_on() -> None:
    called = {"content": None, "function_call": {"name": "f", "arguments": "{}"}}

    async def act(agent: Agent) -> None:
        assert "function_call" in await agent.ask()

    assert isinstance(end_of_run([Reply(called, finish="function_call")], act), ValueError)
