"""What `check` reports about an agent's MCP servers, without starting one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from agentpipe.config.agent_config import load_agent_config
from agentpipe.config.mcp_servers import load_catalogue
from agentpipe.core.context import Context
from agentpipe.core.task import Task
from agentpipe.engines.base import open_engine
from agentpipe.engines.llm.access import Access
from agentpipe.engines.llm.config import read_config
from agentpipe.errors import AgentFailed

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "a-secret-of-the-worker"


def document(**config: Any) -> dict[str, Any]:
    own = {"model": "openai:m", **config}
    return {"kind": "agent", "spec": {"name": "it", "type": "llm", "config": own}}


class Case:
    """A config with these servers."""

    def __init__(self, folder: Path, servers: list[dict[str, Any]]) -> None:
        file = folder / "agent.yaml"
        file.write_text(yaml.safe_dump(document(servers=servers)))
        self.config = load_agent_config(file)

    def problems(self, **env: str) -> list[str]:
        engine: Any = open_engine(self.config)
        found: list[str] = engine.server_problems(Context(env), start=False)
        return found

    def access(self, **environ: str) -> Access:
        return Access(read_config(self.config), load_catalogue(None), environ)


@pytest.fixture(autouse=True)
def _in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


EVERYWHERE = {
    "name": "own",
    "command": "{{PROGRAM_FILE}}",
    "args": ["--in={{ TEST_DIR }}"],
    "env": {"OWN": "{{VALUE}}", "TOKEN": "{{TOKEN}}"},
    "cwd": "{{FOLDER}}",
}


def test_an_inline_servers_names_come_from_the_workers_environment(tmp_path: Path) -> None:
    values = {"PROGRAM_FILE": sys.executable, "TOKEN": "t-1", "VALUE": "v-1", "FOLDER": "/tmp"}
    values["TEST_DIR"] = "/elsewhere"
    access = Case(tmp_path, [EVERYWHERE]).access(**values, OTHER="not named")
    (server,) = access.servers(Task(question="?"), Context({"TEST_DIR": "/srv"}))
    assert server.command == (sys.executable, "--in=/srv")
    assert (server.env, server.cwd) == ({"OWN": "v-1", "TOKEN": "t-1"}, "/tmp")
    assert {"t-1", "v-1"} <= {*access.secrets}
    assert "not named" not in access.secrets


def test_a_url_and_its_headers_are_filled_in_too(tmp_path: Path) -> None:
    headers = {"Authorization": "Bearer {{TOKEN}}"}
    entry = {"name": "far", "url": "https://{{HOST}}/mcp", "headers": headers}
    access = Case(tmp_path, [entry]).access(HOST="example.org", TOKEN=SECRET)
    (server,) = access.servers(Task(question="?"), Context())
    assert (server.url, server.headers["Authorization"]) == (
        "https://example.org/mcp",
        f"Bearer {SECRET}",
    )


def test_a_variable_of_the_servers_own_may_stand_in_the_workers_environment(tmp_path: Path) -> None:
    entries: list[dict[str, Any]] = [
        {"name": "notion"},
        {"name": "n", "command": "x", "env": {"OWN": "a {{PART}}"}},
    ]
    access = Case(tmp_path, entries).access(OPENAPI_MCP_HEADERS="{}", OWN="whole")
    notion, own = access.servers(Task(question="?"), Context())
    assert (notion.env["OPENAPI_MCP_HEADERS"], own.env["OWN"]) == ("{}", "whole")


def test_a_task_reads_no_variable_of_the_worker(tmp_path: Path) -> None:
    access = Case(tmp_path, []).access(SECRET=SECRET)
    stolen = {
        "name": "fetch",
        "command": "echo",
        "args": ["{{SECRET}}"],
        "env": {"A": "{{SECRET}}"},
    }
    (server,) = access.servers(
        Task(question="?", mcp_servers=[stolen], use_specified_server=True), Context()
    )
    assert SECRET not in (*server.command, *server.env.values())
    evil = {"name": "evil", "url": "https://example.org/{{SECRET}}"}
    with pytest.raises(AgentFailed, match="unknown MCP server"):
        access.servers(Task(question="?", mcp_servers=[evil], use_specified_server=True), Context())


def test_a_task_may_name_a_server_twice_but_not_two_servers_alike(tmp_path: Path) -> None:
    access = Case(tmp_path, []).access()
    same = [{"name": "time"}, {"name": "time"}]
    first, again = access.servers(
        Task(question="?", mcp_servers=same, use_specified_server=True), Context()
    )
    assert first == again
    other: list[dict[str, Any]] = [{"name": "time"}, {"name": "time", "tools": ["convert_time"]}]
    with pytest.raises(AgentFailed, match="two different servers are named 'time'"):
        access.servers(Task(question="?", mcp_servers=other, use_specified_server=True), Context())


def test_what_every_server_gets_is_no_secret(tmp_path: Path) -> None:
    entry = {"name": "own", "command": "x", "args": ["{{HOME}}"], "env": {"T": "{{TOKEN}}"}}
    assert Case(tmp_path, [entry]).access(HOME="/root", TOKEN=SECRET).secrets == (SECRET,)


def test_check_names_a_variable_that_is_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {"name": "own", "command": sys.executable, "env": {"A": "{{ONE_HERE}} {{TWO_HERE}}"}}
    case = Case(tmp_path, [entry, {"name": "own2", "url": "http://x/{{THREE_HERE}}"}])
    assert case.problems() == [
        (
            "servers[0]: the MCP server 'own' needs ONE_HERE, TWO_HERE: "
            "set it in the context's env, or where the workers run"
        ),
        (
            "servers[1]: the MCP server 'own2' needs THREE_HERE: "
            "set it in the context's env, or where the workers run"
        ),
    ]
    monkeypatch.setenv("ONE_HERE", "1")
    monkeypatch.setenv("THREE_HERE", "3")
    assert case.problems(TWO_HERE="2") == []


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["none-such"], "no such program 'none-such'"),
        (["./none-such"], "no such program './none-such'"),
        ([sys.executable, "none.py"], "no such script"),
        (
            [sys.executable, "-u", "-X", "dev", "sub/none.py", "here.py"],
            "none.py': correct the path",
        ),
        (["sh", "-x", "./none"], "none': correct the path"),
        ([sys.executable, "-m", "none_such_module"], "no module 'none_such_module'"),
        ([sys.executable, "-u", "-m", "none_such.server"], "no module 'none_such'"),
        ([sys.executable, "here.py", "none.py"], ""),
        ([sys.executable, "-m", "here"], ""),
        ([sys.executable, "-m", "json.tool"], ""),
        ([sys.executable, "-c", "none.py"], ""),
        ([sys.executable, "-"], ""),
        ([sys.executable], ""),
        (["sh", "-lc", "none/such.sh"], ""),
        (["./here.sh", "none.py"], ""),
        (["env", "python", "none.py"], ""),
    ],
)
def test_check_names_a_missing_program_script_or_module(
    tmp_path: Path, command: list[str], words: str
) -> None:
    (tmp_path / "here.py").touch()
    (tmp_path / "here.sh").touch(mode=0o755)
    found = Case(tmp_path, [{"name": "own", "command": command[0], "args": command[1:]}]).problems()
    assert len(found) == bool(words)
    assert words in "".join(found)


def test_a_script_is_looked_for_where_the_server_runs(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "there.py").touch()
    entry = {"name": "own", "command": sys.executable, "args": ["there.py"]}
    assert "no such script" in Case(tmp_path, [entry]).problems()[0]
    assert Case(tmp_path, [{**entry, "cwd": "sub"}]).problems() == []


def test_the_path_of_the_servers_own_environment_counts(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "own-program").touch(mode=0o755)
    entry = {"name": "own", "command": "own-program"}
    assert Case(tmp_path, [entry]).problems()
    there = {**entry, "env": {"PATH": str(tmp_path / "bin")}}
    assert Case(tmp_path, [there]).problems() == []


def test_no_secret_is_in_a_problem(tmp_path: Path) -> None:
    entry = {"name": "own", "command": "python3", "args": ["/{{THE_DIR}}/none.py"]}
    (problem,) = Case(tmp_path, [entry]).problems(THE_DIR=SECRET)
    assert SECRET not in problem
    assert "/***/none.py" in problem
