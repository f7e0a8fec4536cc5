"""What a task can choose: sampling settings and MCP servers; all else is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from agentpipe.config.agent_config import load_agent_config
from agentpipe.config.collection import Collection, load
from agentpipe.config.mcp_servers import VARIABLE, load_catalogue
from agentpipe.config.task_rules import NO_RULES
from agentpipe.core.context import Context
from agentpipe.core.sampling import SETTINGS, within
from agentpipe.core.task import Task
from agentpipe.engines.llm.access import Access
from agentpipe.engines.llm.config import read_config
from agentpipe.errors import ConfigError, TaskError
from agentpipe.sending.admission import admit

if TYPE_CHECKING:
    from pathlib import Path

NOTES = {"name": "notes", "command": "notes-server", "tools": ["search", "read"]}
BOTH = {"search", "read"}
REACT = {"type": "react", "config": {"llm": "m", "servers": [{"name": "weather"}]}}
MODEL = {"kind": "llm", "spec": {"name": "m", "type": "openai", "config": {}}}


@pytest.fixture(autouse=True)
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator's list with one server."""
    entry = {"stdio": {"command": "listed-server"}}
    (tmp_path / "servers.json").write_text(json.dumps({"listed": entry}))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "servers.json"))


def collection(folder: Path, agent: dict[str, Any] | None = None, **spec: Any) -> Collection:
    llm = {"type": "llm", "config": {"model": "openai:m", "servers": [NOTES]}}
    document = {"kind": "agent", "spec": {"name": "it", **(agent or llm)}}
    (folder / "agent.yaml").write_text(yaml.safe_dump_all([MODEL, document]))
    own = {"name": "c", "config": "agent.yaml", **spec}
    (folder / "c.yaml").write_text(yaml.safe_dump({"kind": "collection", "spec": own}))
    return load(folder / "c.yaml")[0]


def wanting(*servers: Any, **more: Any) -> dict[str, Any]:
    return {"question": "?", "use_specified_server": True, "mcp_servers": list(servers), **more}


def refusal(of: Collection, task: dict[str, Any]) -> str:
    """Why sender and worker refuse the task; empty if both accept it."""
    at_worker = "; ".join(of.task_rules.problems(Task.load(task)))
    if not at_worker:
        admit(task, of.task_rules)
        return ""
    with pytest.raises(TaskError) as caught:
        admit(task, of.task_rules)
    assert str(caught.value) == at_worker
    return at_worker


# Servers.


@pytest.mark.parametrize("name", ["playwright", "github", "filesystem", "nowhere", "weather", ""])
def test_a_task_of_an_llm_agent_starts_no_server_that_its_owner_did_not_set_up(
    tmp_path: Path, name: str
) -> None:
    place = "mcp_servers[0]: "
    said = refusal(collection(tmp_path), wanting({"name": name}))
    assert said.startswith(place + (f"the MCP server '{name}' is not offered" if name else "a ser"))


def test_it_chooses_among_the_agents_own_and_the_operators_list(tmp_path: Path) -> None:
    crew = collection(tmp_path)
    own, listed = {"name": "notes", "tools": ["read"]}, {"name": "listed", "transport": "stdio"}
    assert refusal(crew, wanting(own, listed)) == ""
    assert "did you mean 'notes'?" in refusal(crew, wanting({"name": "note"}))
    ignored = {"question": "?", "mcp_servers": [{"name": "playwright"}]}
    assert refusal(crew, ignored) == ""


def test_it_gets_no_tool_that_its_agent_may_not_use(tmp_path: Path) -> None:
    said = refusal(collection(tmp_path), wanting({"name": "notes", "tools": ["read", "delete"]}))
    assert "mcp_servers[0]: tools: the agent may not use 'delete': choose from search, read" in said
    config = read_config(load_agent_config(tmp_path / "agent.yaml"))
    access = Access(config, load_catalogue(None), {})
    for asked, given in (([], BOTH), (["read"], {"read"}), (["delete"], BOTH)):
        entry = {"name": "notes", **({"tools": asked} if asked else {})}
        task = Task(mcp_servers=[entry], use_specified_server=True)
        (server,) = access.servers(task, Context())
        assert server.command == ("notes-server",)
        assert set(server.tools or ()) == given


@pytest.mark.parametrize(
    "key", ["command", "args", "env", "cwd", "url", "headers", "gateway_address", "stdio", "sse"]
)
@pytest.mark.parametrize("agent", [None, REACT])
def test_it_says_neither_how_a_server_is_started_nor_where_it_is(
    tmp_path: Path, key: str, agent: dict[str, Any] | None
) -> None:
    name = "weather" if agent else "notes"
    said = refusal(collection(tmp_path, agent), wanting({"name": name, key: "x"}))
    assert f"mcp_servers[0]: a task cannot set a server's {key}" in said


def test_mcp_universes_types_keep_their_meaning(tmp_path: Path) -> None:
    theirs = collection(tmp_path, REACT)
    entries = ({"name": "github", "transport": "stdio", "tools": ["x"]}, {"name": "weather"})
    assert refusal(theirs, wanting(*entries, cleanups=[{"server": "notion"}])) == ""


@pytest.mark.parametrize("agent", [None, REACT])
def test_task_servers_is_the_exact_list_for_any_agent(
    tmp_path: Path, agent: dict[str, Any] | None
) -> None:
    crew = collection(tmp_path, agent, task_servers=["time", "fetch"])
    assert refusal(crew, wanting({"name": "time"}, {"name": "fetch"})) == ""
    for other in ("listed", "notes", "weather", "playwright"):
        assert "is not offered" in refusal(crew, wanting({"name": other}))
    assert "is not offered" in refusal(collection(tmp_path, task_servers=[]), wanting(NOTES))


def test_task_servers_bounds_the_servers_of_cleanups_too(tmp_path: Path) -> None:
    crew = collection(tmp_path, REACT, task_servers=["time"])
    own = [{"server": "weather", "tool": "t"}, {"server": "time"}, {"cleanup_func": "x"}]
    assert refusal(crew, {"question": "?", "cleanups": own}) == ""
    said = refusal(crew, {"question": "?", "cleanups": [*own, {"server": "github"}]})
    assert said.startswith("cleanups[3]: server: the MCP server 'github' is not offered to tasks")


def test_a_wrong_task_servers_is_an_error_of_the_file(tmp_path: Path) -> None:
    for wrong in ("time", [{"name": "time"}], [""], {"time": 1}):
        with pytest.raises(ConfigError, match=r"spec\.task_servers: expected a list of names"):
            collection(tmp_path, task_servers=wrong)


def test_a_worker_goes_on_with_what_it_read_when_it_started(tmp_path: Path) -> None:
    rules = collection(tmp_path).task_rules
    assert rules.servers is not None
    rules.servers.settle()
    collection(tmp_path, {"type": "llm", "config": {"servers": [{"name": "playwright"}]}})
    (tmp_path / "servers.json").write_text("{}")
    task = Task.load(wanting({"name": "playwright"}, {"name": "listed"}, {"name": "notes"}))
    assert [said.partition(":")[0] for said in rules.problems(task)] == ["mcp_servers[0]"]


# Sampling.


FORBIDDEN = {
    "extra_body": {"model": "dearer"},
    "model": "dearer",
    "messages": [{"role": "user", "content": "other"}],
    "n": 100,
    "tools": [],
    "tool_choice": "none",
    "headers": {"X": "y"},
    "extra_headers": {"X": "y"},
    "base_url": "http://elsewhere",
    "api_key": "k",
    "stream": True,
    "max_iterations": 1_000,
    "max_total_tokens": 10**9,
    "time_limit": 10**9,
    "request_timeout_s": 10**9,
    "max_completion_tokens": 10**9,
    "response_format": {},
    "logit_bias": {},
    "user": "x",
    "store": True,
    "service_tier": "priority",
    "thinking": {"budget_tokens": 10**9},
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_sampling_reaches_nothing_else_of_a_request(tmp_path: Path, name: str) -> None:
    task = {"question": "?", "sampling": {name: FORBIDDEN[name]}}
    assert f"sampling: a task cannot set '{name}'" in refusal(collection(tmp_path), task)
    with pytest.raises(TaskError, match=f"sampling: a task cannot set '{name}'"):
        admit(task)


GOOD: dict[str, list[Any]] = {
    "temperature": [0, 0.7, 2],
    "top_p": [0.1, 1],
    "top_k": [-1, 40],
    "min_p": [0, 0.05],
    "max_tokens": [1, 32_000],
    "seed": [0, -7, 2**62],
    "frequency_penalty": [-2, 0.5],
    "presence_penalty": [2],
    "repetition_penalty": [1.1],
    "stop_sequences": [["END"], []],
    "parallel_tool_calls": [False],
    "reasoning_effort": ["low", "high"],
    "logprobs": [True],
    "top_logprobs": [0, 20],
}
WRONG: dict[str, list[Any]] = {
    "temperature": ["hot", -1, True, 1e9, None],
    "top_p": [1.1, [0.5], {}],
    "top_k": [1.5, "40", True],
    "min_p": [2],
    "max_tokens": [0, -1, 1.0, True, "9", 2**62],
    "seed": ["x", 1.5, 2**63],
    "frequency_penalty": [1e6],
    "presence_penalty": [False],
    "repetition_penalty": [-1],
    "stop_sequences": ["END", [""], [1], ["x" * 1_001], ["x"] * 17],
    "parallel_tool_calls": [1, "no"],
    "reasoning_effort": ["extreme", 3, ["low"], {}],
    "logprobs": [5],
    "top_logprobs": [21, True],
}


@pytest.mark.parametrize("name", SETTINGS)
def test_each_setting_has_its_values(name: str) -> None:
    for value in GOOD[name]:
        admit({"question": "?", "sampling": {name: value}})
    for value in WRONG[name]:
        assert NO_RULES.problems(Task(sampling={name: value}))[0].startswith(
            f"sampling: {name}: expected "
        )


def test_the_owners_limits_are_ceilings() -> None:
    owners = {"max_tokens": 100, "reasoning_effort": "low", "temperature": 0.5}
    raised = within({"max_tokens": 5_000, "reasoning_effort": "high", "temperature": 1}, owners)
    assert raised == {"max_tokens": 100, "reasoning_effort": "low", "temperature": 1}
    lowered = {"max_tokens": 5, "reasoning_effort": "minimal"}
    assert within(lowered, owners) == lowered
    assert within({"max_tokens": 5_000}, {}) == {"max_tokens": 5_000}


# Fields that only agentpipe sets.


@pytest.mark.parametrize(
    "given",
    [
        {"dramatiq": {"pipe_target": {"actor_name": "wipe"}}},
        {"dramatiq": {"on_success": "wipe"}},
        {"answered": {"answer": "<m:API_KEY>", "mark": "m"}},
        {"answered": {}},
        {"spent_before": {}},
        {"group_need": 2},
        {"group_repairs": 1},
    ],
)
def test_a_task_names_no_message_that_follows_and_brings_no_answer(given: dict[str, Any]) -> None:
    (name,) = given
    with pytest.raises(TaskError, match=f"^{name}: only agentpipe sets it"):
        admit({"question": "?", **given})
    kept = admit(Task(question="?", **given)).task  # As in the replay of a dead letter.
    assert getattr(kept, name) == given[name]
