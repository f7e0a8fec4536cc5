"""Runs whose model has a URL for this run only, as trainers' gateways give."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.llm_stub import LlmStub, fail, say

if TYPE_CHECKING:
    from tests.integration.project import Project

# A client of both protocols, which finds its server by the usual variables.
PROGRAM = """
import json, os, sys
task = json.load(sys.stdin)
urls = {name: os.environ.get(name) for name in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL")}
print(json.dumps({"answer": {**urls, "argv": sys.argv[1:]}}))
"""


def agent(project: Project, kind: str, config: dict[str, Any]) -> None:
    document = {"kind": "agent", "spec": {"name": "asks", "type": kind, "config": config}}
    project.write("asks.yaml", yaml.safe_dump(document))


@pytest.mark.parametrize("isolation", ["coroutine", "process"])
def test_an_llm_agent_asks_at_the_url_of_its_run(project: Project, isolation: str) -> None:
    with LlmStub([fail(500), say("a"), say("b")]) as stub:
        url = f"{stub.url}/s/{{{{ task_id }}}}/{{{{ attempt }}}}/{{{{ REALM }}}}"
        agent(project, "llm", {"model": "openai:gpt-4.1", "base_url": url})
        project.environ["OPENAI_API_KEY"] = "sk-test-0123456789"
        project.collection(
            config="./asks.yaml", isolation=isolation, context=[{"env": {"REALM": "north"}}]
        )
        project.work("--processes", "1")
        project.send({"task_id": "v1/a", "question": "q"})
        project.until(delivered=1)  # Otherwise "b" could take the reply of its second attempt.
        project.send(*({"task_id": name, "question": "q"} for name in ("b", "..")))
        project.until(delivered=3)
        paths = [request.path.partition("/s/")[2] for request in stub.requests]
    assert paths == [
        "v1%2Fa/1/north/chat/completions",
        "v1%2Fa/2/north/chat/completions",
        "b/1/north/chat/completions",
    ]
    results = project.by_id()
    assert [results[name]["result"] for name in ("v1/a", "b")] == ["a", "b"]
    assert (results[".."]["outcome"], results[".."]["error"]["permanent"]) == ("infra_error", True)


def test_a_program_finds_the_url_of_its_run_in_its_environment(project: Project) -> None:
    project.write("program.py", PROGRAM)
    argv = [sys.executable, "./program.py", "--", "{{ question }}"]
    argv[1] = str(project.folder / "program.py")
    url = "http://gateway:9090/sessions/{{ group_id }}-{{ sample_index }}/v1"
    agent(project, "command", {"argv": argv, "base_url": url})
    project.collection(config="./asks.yaml")
    sample = {"group_id": "g", "sample_index": 2, "group_size": 4}
    project.send({"task_id": "t", "question": "q", **sample})
    project.burst("--processes", "1")
    root = "http://gateway:9090/sessions/g-2"
    assert project.by_id()["t"]["result"] == {
        "OPENAI_BASE_URL": f"{root}/v1",
        "ANTHROPIC_BASE_URL": root,
        "argv": ["--", "q"],
    }


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"argv": ["cat"], "base_url": "http://{{ task_id }}/v1"}, "must not choose the server"),
        ({"argv": ["cat"], "base_url": "gateway"}, "base_url: expected a URL"),
        ({"argv": ["cat"], "base_url": "http://h/v1?key=x"}, "without ? and #"),
        ({"argv": ["cat", "{{ base_url }}"]}, "OPENAI_BASE_URL"),
    ],
)
def test_a_url_of_a_run_is_checked_and_in_no_argument(
    project: Project, config: dict[str, Any], says: str
) -> None:
    agent(project, "command", config)
    project.collection(config="./asks.yaml")
    done = project.run("check", "--json")
    assert done.code == 2
    assert says in json.dumps(done.json["problems"])
