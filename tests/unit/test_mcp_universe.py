"""What of MCP-Universe runs natively, what needs its own code, and what cannot run."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import yaml

from agentpipe.config.agent_config import load_agent_config
from agentpipe.config.mcp_servers import load_catalogue
from agentpipe.config.mcp_universe import (
    engine_for,
    problems,
    task_faults,
    task_needs,
    why_not_native,
)
from agentpipe.config.mcp_universe_names import names
from agentpipe.config.mcp_universe_prompts import prompt_files
from agentpipe.core.task import Task
from agentpipe.engines.base import open_engine
from agentpipe.errors import ConfigError
from agentpipe.evaluation.chain import OPS, STEPS

if TYPE_CHECKING:
    from pathlib import Path

    from agentpipe.config.agent_config import AgentConfig

LLM = {"kind": "llm", "spec": {"name": "l", "type": "openai", "config": {"model_name": "m"}}}


def component(kind: str, name: str, type_: str, **config: Any) -> dict[str, Any]:
    return {"kind": kind, "spec": {"name": name, "type": type_, "config": config}}


def loaded(folder: Path, *documents: dict[str, Any], main: str = "") -> AgentConfig:
    for document in documents:
        if document["spec"]["name"] == main:
            document["spec"]["is_main"] = True
    path = folder / "agent.yaml"
    path.write_text(yaml.safe_dump_all(documents, sort_keys=False))
    return load_agent_config(path)


def agent(
    folder: Path, type_: str, llm: dict[str, Any] | None = None, **config: Any
) -> AgentConfig:
    return loaded(folder, llm or LLM, component("agent", "a", type_, llm="l", **config))


def test_there_are_as_many_names_as_it_has() -> None:
    assert len(names().operators) == 211 - len(OPS)
    assert not names().operators & OPS.keys()
    assert set(STEPS) == {"json", "get", "len", "foreach", "raw", "list"}
    assert [len(types) for types in names().types.values()] == [29, 31, 10]


# Engines.


@pytest.mark.parametrize(
    "type_", ["python", "llm", "command", "somebodys", "ReAct2", "mcpuniverse"]
)
def test_a_type_that_is_not_mcp_universes_is_an_engines_name(tmp_path: Path, type_: str) -> None:
    config = agent(tmp_path, type_, tools_prompt="x")
    assert engine_for(config) == type_
    assert (why_not_native(config), problems(config)) == ([], [])


@pytest.mark.parametrize("type_", ["basic", "function-call", "function_call", "fc", "FunctionCall"])
@pytest.mark.parametrize(
    "llm", sorted(name for name, each in names().types["llm"].items() if each.native)
)
def test_a_simple_agent_runs_natively(tmp_path: Path, type_: str, llm: str) -> None:
    model = component("llm", "l", llm, model_name="a/m", temperature=0, base_url="u", max_tokens=5)
    config = agent(
        tmp_path,
        type_,
        model,
        instruction="Be brief.",
        max_iterations=3,
        summarize_tool_response=False,
        use_llm_tool_api="no",
        template_vars={},
        servers=[{"name": "time", "tools": ["now"], "transport": "stdio", "permissions": []}],
    )
    assert why_not_native(config) == []
    assert engine_for(config) == "llm"
    assert problems(config) == []


@pytest.mark.parametrize(
    ("type_", "config", "reasons"),
    [
        ("react", {}, ["type react"]),
        ("claude-code", {}, ["type claude-code"]),
        ("basic", {"tools_prompt": "x", "resources": ["r"]}, ["tools_prompt", "resources"]),
        ("fc", {"summarize_tool_response": True}, ["summarize_tool_response"]),
        ("fc", {"use_llm_tool_api": "yes"}, ["use_llm_tool_api"]),
        (
            "fc",
            {"servers": [{"name": "s", "permissions": [{"tool": "*"}]}]},
            ["server's permissions"],
        ),
    ],
)
def test_what_an_agent_has_beyond_ours_needs_its_own_code(
    tmp_path: Path, type_: str, config: dict[str, Any], reasons: list[str]
) -> None:
    found = agent(tmp_path, type_, **config)
    assert engine_for(found) == "mcpuniverse"
    said = why_not_native(found)
    assert len(said) == len(reasons)
    assert all(reason in text for reason, text in zip(reasons, said, strict=True))


@pytest.mark.parametrize(
    ("type_", "config", "reason"),
    [
        ("claude_gateway", {}, "llm type claude_gateway"),
        (
            "openrouter",
            {"model_name": "GPT5_OR"},
            "llm model_name is MCP-Universe's own alias of a model",
        ),
    ],
)
def test_so_does_a_model(tmp_path: Path, type_: str, config: dict[str, Any], reason: str) -> None:
    found = agent(tmp_path, "basic", component("llm", "l", type_, **config))
    assert (engine_for(found), why_not_native(found)) == ("mcpuniverse", [reason])
    assert problems(found) == []


# Servers.

LISTED = {"mine": {"stdio": {"command": "x"}}, "far": {"http": {"url": "http://x"}}}


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's list of servers; it redefines a name of MCP-Universe's package too."""
    file = tmp_path / "servers.json"
    file.write_text(json.dumps({**LISTED, "echo": {"stdio": {"command": "y"}}}))
    monkeypatch.setenv("AGENTPIPE_MCP_SERVERS", str(file))
    return file


@pytest.mark.parametrize("name", sorted(names().servers))
def test_each_server_of_its_list_runs_by_either_engine(tmp_path: Path, name: str) -> None:
    servers = [{"name": name}]
    native, theirs = (agent(tmp_path, type_, servers=servers) for type_ in ("fc", "react"))
    packaged = name in names().package_servers
    assert engine_for(native) == ("mcpuniverse" if packaged else "llm")
    assert (problems(native), problems(theirs)) == ([], [])
    if not packaged:
        open_engine(native)
    task = Task(mcp_servers=servers, use_specified_server=True)
    assert task_needs(task) == ([f"the server {name} comes with its package"] * packaged)
    assert task_faults(task) == []
    assert task_needs(Task(mcp_servers=servers)) == []


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ({"name": "wether"}, "unknown MCP server 'wether': did you mean 'weather'?"),
        ({"name": "nowhere", "command": "x"}, "add it to the file that AGENTPIPE_MCP_SERVERS"),
        ({"name": ["weather"]}, "a server needs a name"),
        ({"tools": ["x"]}, "a server needs a name"),
        ("weather", "expected a list of entries"),
        ({"name": "weather", "transport": "stdoi"}, "transport 'stdoi' of the MCP server"),
        ({"name": "weather", "transport": "http"}, "cannot be reached by http: write one of"),
        ({"name": "far"}, "cannot be reached by stdio: write one of ['http']"),
    ],
)
@pytest.mark.usefixtures("listed")
def test_a_server_that_its_code_fails_at_is_told_with_its_line(
    tmp_path: Path, server: Any, words: str
) -> None:
    config = agent(tmp_path, "react", servers=[{"name": "date"}, server])
    (problem,) = problems(config)
    assert words in problem.message
    assert problem.message.startswith("spec.config.servers[1]: ")
    lines = (tmp_path / "agent.yaml").read_text().splitlines()
    assert lines[problem.line - 2] == "    - name: date"
    with pytest.raises(ConfigError, match=re.escape(words)):
        open_engine(config)
    if isinstance(server, dict):
        task = Task(mcp_servers=[server], use_specified_server=True)
        assert [words in fault for fault in task_faults(task)] == [True]
        assert task_faults(Task(mcp_servers=[server])) == []


@pytest.mark.parametrize(
    ("server", "needs"),
    [
        ({"name": "mine"}, []),
        ({"name": "echo"}, []),
        ({"name": "far", "transport": "http"}, []),
        ({"name": "time"}, []),
        ({"name": "github", "transport": "sse"}, ["the server github is reached by sse, through"]),
        ({"name": "time", "permissions": [{"tool": "*"}]}, ["a server's permissions is set"]),
        ({"name": "time", "gateway_address": "http://x"}, ["a server's gateway_address is set"]),
    ],
)
@pytest.mark.usefixtures("listed")
def test_what_a_server_needs(tmp_path: Path, server: dict[str, Any], needs: list[str]) -> None:
    task = Task(mcp_servers=[server], use_specified_server=True)
    for said in (why_not_native(agent(tmp_path, "fc", servers=[server])), task_needs(task)):
        assert [word in text for word, text in zip(needs, said, strict=True)] == [True] * len(needs)
    assert problems(agent(tmp_path, "react", servers=[server])) == []


def test_a_list_that_cannot_be_read_is_the_only_mistake(tmp_path: Path, listed: Path) -> None:
    listed.write_text("{")
    config = agent(tmp_path, "react", servers=[{"name": "mine"}])
    with pytest.raises(ConfigError, match="not JSON") as caught:
        open_engine(config)
    assert len(caught.value.problems) == 1


def test_a_variable_of_the_server_itself_serves_as_well() -> None:
    catalogue = load_catalogue(None)
    headers = "OPENAPI_MCP_HEADERS"
    by_key = catalogue.server({"name": "notion"}, {"NOTION_API_KEY": "k-1"})
    assert orjson.loads(by_key.env[headers])["Authorization"] == "Bearer k-1"
    assert catalogue.server({"name": "notion"}, {headers: "{}"}).env == {headers: "{}"}
    with pytest.raises(ConfigError, match="'notion' needs NOTION_API_KEY"):
        catalogue.server({"name": "notion"}, {})


# Prompts.


@pytest.mark.parametrize("key", ["system_prompt", "tools_prompt", "reflection_prompt"])
def test_a_prompt_file_is_found_beside_the_config_and_above(tmp_path: Path, key: str) -> None:
    folder = tmp_path / "repository" / "configs" / "deep"
    folder.mkdir(parents=True)
    for place, written in (
        (folder / "own.j2", "own.j2"),
        (tmp_path / "repository" / "prompts" / "p.j2", "prompts/p.j2"),
    ):
        prompt: dict[str, Any] = {key: written}
        config = agent(folder, "reflection", **prompt)
        (missing,) = problems(config)
        assert missing.message.startswith(f"spec.config.{key}: no such file: tried ")
        place.parent.mkdir(exist_ok=True)
        place.write_text("You are.")
        assert problems(config) == []
        assert prompt_files(config) == {written: str(place)}


def test_prompts_of_the_package_and_prompts_as_text_need_no_file(tmp_path: Path) -> None:
    theirs = "mcpuniverse/agent/configs/react_prompt.j2"
    assert problems(agent(tmp_path, "react", system_prompt=theirs, tools_prompt="Use.")) == []
    newer = theirs.replace("react_prompt", "react_prompt_of_2.0")
    assert len(problems(agent(tmp_path, "react", system_prompt=newer))) == 1


def test_workflows_need_its_own_code(tmp_path: Path) -> None:
    steps = [component("agent", name, "basic", llm="l") for name in ("one", "two", "three")]
    work = component("workflow", "w", "parallelization", agents=["one", "two"], aggregator="three")
    main = component("agent", "main", "workflow", workflow="w", instruction="Lead.")
    config = loaded(tmp_path, LLM, *steps, work, main, main="main")
    assert (engine_for(config), problems(config)) == ("mcpuniverse", [])


# Mistakes.


def messages(config: AgentConfig) -> list[str]:
    return [str(problem).partition("agent.yaml:")[2] for problem in problems(config)]


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ([component("agent", "a", "basic")], ["spec.config.llm: missing: name an llm"]),
        (
            [LLM, component("agent", "a", "fc", llm="k")],
            ["'k' is not in this file: choose from l"],
        ),
        ([LLM, component("agent", "a", "fc", llm=["l", 5])], ["'' is not in this file"]),
        (
            [LLM, component("agent", "a", "fc", llm="l", max_iteration=1)],
            ["did you mean 'max_iterations'"],
        ),
        ([LLM, component("agent", "a", "react", llm="a")], ["'a' is an agent: name an llm"]),
        (
            [
                component("llm", "l", "azure"),
                component("agent", "a", "react", llm="l", intsruction=""),
            ],
            ["unknown llm type 'azure' in mcpuniverse 1.1.3", "'instruction'"],
        ),
        (
            [
                component("agent", "a", "workflow", workflow="w"),
                component("workflow", "w", "chain", agents=["a"]),
            ],
            ["a cycle, a -> w -> a"],
        ),
    ],
)
def test_what_nothing_can_run_is_named_with_its_line(
    tmp_path: Path, documents: list[dict[str, Any]], expected: list[str]
) -> None:
    config = loaded(tmp_path, *documents, main="a")
    said = messages(config)
    assert len(said) == len(expected), said
    assert all(word in text for word, text in zip(expected, said, strict=True)), said
    assert all(text.partition(":")[0].isdigit() for text in said)
    with pytest.raises(ConfigError, match=r"agent\.yaml"):
        open_engine(config)


def test_a_long_chain_of_components_is_no_trouble(tmp_path: Path) -> None:
    chain = [component("workflow", f"w{n}", "chain", agents=[f"w{n + 1}"]) for n in range(1100)]
    chain.append(component("agent", "w1100", "claude-code"))
    assert problems(loaded(tmp_path, *chain, main="w0")) == []
    chain[1099]["spec"]["config"]["agents"] = ["w0"]
    (cycle,) = problems(loaded(tmp_path, *chain, main="w0"))
    assert "a cycle, " in str(cycle)


def test_ours_looks_only_at_what_it_needs(tmp_path: Path) -> None:
    broken = component("agent", "b", "react2")
    config = loaded(tmp_path, LLM, component("agent", "a", "basic", llm="l"), broken, main="a")
    assert (engine_for(config), problems(config)) == ("llm", [])
    config = loaded(tmp_path, LLM, component("agent", "a", "react", llm="l"), broken, main="a")
    assert (
        "unknown agent type 'react2' in mcpuniverse 1.1.3: did you mean 'react'"
        in messages(config)[0]
    )


# Tasks.


def test_a_tasks_needs_are_named_once() -> None:
    op = {"func": "json", "op": "github.check_repository"}
    task = Task(evaluators=[op, op, {"func": "raw", "op": "="}, {"func": "m:f"}], prepares=[{}])
    assert task_needs(task) == ["prepares", "op github.check_repository"]
    assert task_needs(Task(evaluators=[{"func": "json"}], cleanups=[])) == []


def test_each_name_is_of_one_type_only() -> None:
    for types in names().types.values():
        assert all(name in each.names for name, each in types.items())
    assert names().types["agent"]["react"].keys > {"max_iterations"}
