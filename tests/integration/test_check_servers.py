"""``agentpipe check`` on the MCP servers of a collection's agents."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.integration.llm_bench import ODD
from tests.support import processes_with, wait_until

if TYPE_CHECKING:
    from tests.integration.project import Project

TOKEN = "token-of-the-context-4711"


@pytest.fixture
def mark(project: Project) -> str:
    """A part of the command line of each server started here."""
    return project.marker.partition("=")[2]


def odd(mark: str, *habits: str, **more: Any) -> dict[str, Any]:
    return {"name": "odd", "command": sys.executable, "args": [ODD, *habits, mark], **more}


def write(project: Project, servers: list[dict[str, Any]], **collection: Any) -> None:
    config = {"model": "openai:m", "servers": servers, "start_limit_s": 20}
    spec = {"name": "clerk", "type": "llm", "config": config}
    project.write("clerk.yaml", yaml.safe_dump({"kind": "agent", "spec": spec}))
    project.collection("clerks", "./clerk.yaml", **collection)


def messages(project: Project, *options: str, code: int = 2) -> list[str]:
    done = project.run("check", "--json", *options)
    assert (done.code, done.json["ok"]) == (code, not code), done
    lines = (project.folder / "clerk.yaml").read_text().splitlines()
    for each in done.json["problems"]:
        assert each["file"] == str(project.folder / "clerk.yaml")
        assert lines[each["line"] - 1].lstrip().startswith("- ")  # The line of the server's entry.
    return [each["message"] for each in done.json["problems"]]


def test_check_says_what_servers_lack_and_starts_none(project: Project, mark: str) -> None:
    lacking = odd(mark, name="b", env={"T": "{{NOWHERE}}"})
    missing = {"name": "c", "command": "none-such"}
    write(project, [odd(mark, "die"), lacking, missing], number=3)
    assert messages(project) == [
        (
            "servers[1]: the MCP server 'b' needs NOWHERE: "
            "set it in the context's env, or where the workers run"
        ),
        "servers[2]: the MCP server 'c': no such program 'none-such': install it on the workers",
    ]


def test_check_names_the_contexts_that_lack_a_variable(project: Project, mark: str) -> None:
    contexts = [{"env": {"T": "1"}}, {"env": {}}, {"env": {}}]
    write(project, [odd(mark, env={"T": "{{T}}"})], context=contexts)
    (problem,) = messages(project)
    assert problem.endswith("where the workers run (context 2, 3)")


def test_each_server_that_cannot_be_started_is_named(project: Project, mark: str) -> None:
    project.environ["THE_TOKEN"] = TOKEN
    dying = odd(mark, "die", name="dying", env={"T": "{{T}}"})
    tools = odd(mark, name="tools", tools=["echo", "ecko"])
    away = {"name": "away", "url": "http://127.0.0.1:9/mcp"}
    context = [{"env": {"T": "${THE_TOKEN}"}}] * 2
    write(project, [odd(mark), dying, tools, away], context=context, isolation="thread")
    found = messages(project, "--servers")
    assert [each.split(":")[0] for each in found] == ["servers[1]", "servers[2]", "servers[3]"]
    assert "no licence found" in found[0]
    assert "'tools' has no tool 'ecko': did you mean 'echo'?" in found[1]
    assert "'away' cannot be used" in found[2]
    assert messages(project, code=0) == []
    wait_until(lambda: not processes_with(mark), 10, "no server is left")


def test_a_server_that_is_never_ready_has_the_agents_limit(project: Project, mark: str) -> None:
    write(project, [odd(mark, "hang")])
    config = (
        (project.folder / "clerk.yaml").read_text().replace("start_limit_s: 20", "start_limit_s: 1")
    )
    project.write("clerk.yaml", config)
    (problem,) = messages(project, "--servers")
    assert "'odd' was not ready within 1 s" in problem
    wait_until(lambda: not processes_with(mark), 10, "no server is left")


def test_servers_that_start_are_no_problem_and_what_they_print_no_output(
    project: Project, mark: str
) -> None:
    write(project, [odd(mark, "loud", "rubbish")])
    assert messages(project, "--servers", code=0) == []
    assert project.ok("check", "--servers").out == "ok\n"


def test_servers_belong_to_a_collection(project: Project, mark: str) -> None:
    write(project, [odd(mark)])
    done = project.run("check", "clerk.yaml", "--servers")
    assert done.code == 2
    assert "--servers takes one collection file" in done.err
