"""Tasks that ask for more than their collection offers: refused, or dead letters."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from agentpipe.brokers.records import Offer
from agentpipe.core.task import Task
from tests.llm_stub import LlmStub, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.project import Project

CANARY = "sk-canary-of-the-worker-4711"


@pytest.fixture
def model() -> Iterator[LlmStub]:
    with LlmStub([say("fine")]) as stub:
        yield stub


@pytest.fixture
def clerk(project: Project, model: LlmStub) -> Project:
    """A collection whose agent has limits; programs of built-in servers only leave a trace."""
    config = {"model": "openai:m", "base_url": model.url, "max_tokens": 50, "max_iterations": 2}
    spec = {"name": "clerk", "type": "llm", "config": config}
    project.write("clerk.yaml", yaml.safe_dump({"kind": "agent", "spec": spec}))
    project.collection("clerk", "./clerk.yaml", max_retries=0)
    programs = project.folder / "bin"
    programs.mkdir()
    for name in ("npx", "uvx", "docker"):
        program = programs / name
        program.write_text(f"#!{sys.executable}\nopen({str(started(project))!r}, 'a').write('x')\n")
        program.chmod(0o755)
    project.environ |= {
        "PATH": f"{programs}:{project.environ['PATH']}",
        "OPENAI_API_KEY": CANARY,
        "NOTION_API_KEY": CANARY,
    }
    return project


def started(project: Project) -> Any:
    return project.folder / "started"


def wanting(*names: str, **more: Any) -> dict[str, Any]:
    servers = [{"name": name} for name in names]
    return {"question": "?", "use_specified_server": True, "mcp_servers": servers, **more}


REFUSED: dict[str, dict[str, Any]] = {
    "playwright": wanting("playwright"),
    "notion": wanting("notion"),
    "docker": wanting("github"),
    "uvx": wanting("calculator"),
    "python": wanting("git"),
    "model": {"question": "?", "sampling": {"extra_body": {"model": "dearer", "n": 9}}},
    "many": {"question": "?", "sampling": {"n": 100}},
    "elsewhere": {"question": "?", "sampling": {"base_url": "http://127.0.0.1:1"}},
}


@pytest.mark.long
@pytest.mark.every_broker
def test_what_is_not_offered_is_refused_when_sent_and_starts_nothing_when_forged(
    clerk: Project, model: LlmStub
) -> None:
    for name, task in REFUSED.items():
        file = clerk.write("one.jsonl", json.dumps(task))
        refused = clerk.run("send", "clerk", "--file", str(file))
        assert (refused.code, "one.jsonl:1" in refused.err) == (2, True), (name, refused)
    clerk.ok("send", "clerk", "still there?")
    store = clerk.open_store()
    offers = [Offer(name, Task(task_id=name, **task).encode()) for name, task in REFUSED.items()]
    store.offer("clerk", offers, round_robin=True)
    store.close()
    clerk.burst("--slots", "2")
    letters = {one["task_id"]: one for one in clerk.ok("dead", "list", "--json").json["dead"]}
    assert letters.keys() == REFUSED.keys()
    for name, letter in letters.items():
        field = "mcp_servers[0]: " if "mcp_servers" in REFUSED[name] else "sampling: "
        assert field in letter["reason"]
    ends = {name: result["outcome"] for name, result in clerk.by_id().items()}
    assert [ends.pop(name) for name in REFUSED] == ["infra_error"] * len(REFUSED)
    assert list(ends.values()) == ["ok"]  # Refusals do not open the breaker.
    assert len(model.requests) == 1
    assert not started(clerk).exists()


@pytest.mark.long
def test_a_task_lowers_the_owners_limits_and_never_raises_them(
    clerk: Project, model: LlmStub
) -> None:
    asked = [{"max_tokens": 9_000}, {"max_tokens": 7}, {"top_p": 0.5, "top_logprobs": 3}]
    clerk.send(*({"question": "?", "sampling": each} for each in asked), to="clerk")
    clerk.burst("--slots", "1")
    bodies = [request.body for request in model.requests]
    assert sorted(body["max_completion_tokens"] for body in bodies) == [7, 50, 50]
    assert [body["top_logprobs"] for body in bodies if "top_p" in body] == [3]


def test_check_names_the_tasks_of_a_schedule_that_want_what_is_not_offered(clerk: Project) -> None:
    clerk.tasks(wanting("playwright"), {"question": "?", "sampling": {"n": 2}}, name="night.jsonl")
    schedule = [{"cron": "0 3 * * *", "tasks": "./night.jsonl"}]
    clerk.collection("night", "./clerk.yaml", schedule=schedule)
    problems = clerk.run("check", "--json").json["problems"]
    said = [(each["line"], each["message"]) for each in problems]
    assert [line for line, _ in said] == [1, 2]
    assert "the MCP server 'playwright' is not offered to tasks" in said[0][1]
    assert "sampling: a task cannot set 'n'" in said[1][1]
