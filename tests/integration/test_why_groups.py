"""What a group waits for, as ``why`` reports it with real workers: members, gates and pauses."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from agentpipe.config.collection import load
from agentpipe.sending.dispatcher import Dispatcher
from agentpipe.settings import Settings
from agentpipe.training.policy import Policy
from tests.llm_stub import LlmStub, say
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.project import Project

JUDGED = [{"func": "raw", "op": "=", "value": "yes"}]


def send_group(project: Project, group_id: str) -> None:
    settings = Settings.from_env(project.environ)
    task: dict[str, Any] = {"task_id": group_id, "question": "q", "evaluators": JUDGED}
    collections = load(project.folder / "collection.yaml")
    with closing(Dispatcher.open(collections, settings, results=False)) as dispatcher:
        assert dispatcher.send_group("toys", task, 2, repairs=3).accepted == 2


def why(project: Project, task_id: str) -> dict[str, Any]:
    told: dict[str, Any] = project.ok("why", task_id, "--json").json
    return told


def until(
    project: Project, task_id: str, is_so: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    told: dict[str, Any] = {}

    def look() -> bool:
        told.update(why(project, task_id))
        return is_so(told)

    wait_until(look, 60, f"why {task_id}")
    return told


@pytest.mark.every_broker(but=("rabbitmq",), long=("redis",))
def test_a_group_says_which_gate_and_which_pause_it_waits_for(project: Project) -> None:
    with LlmStub([say("yes")]) as stub:
        spec = {"name": "main", "endpoints": [stub.url], "batch": 1, "max_staleness": 0}
        config = {"model": "local:m"}
        agent = {"kind": "agent", "spec": {"name": "asks", "type": "llm", "config": config}}
        project.write("llm.yaml", yaml.safe_dump(agent))
        project.write("collection.yaml", yaml.safe_dump({"kind": "policy", "spec": spec}))
        project.collection(config="./llm.yaml", policy="main", concurrency=2, number=2)
        send_group(project, "first")
        settings = Settings.from_env(project.environ)
        with Policy.open("main", settings) as policy:
            policy.pause()
            told = why(project, "first")
            assert (told["state"], told["reason"]) == ("open", "no_worker")
            assert told["group"]["waiting"] == 2
            fleet = project.work("--processes", "1")
            both = "has 0 of the 2 good samples that it needs, 2 running"
            told = until(
                project,
                "first",
                lambda it: it["reason"] == "policy_paused" and both in it["sentence"],
            )
            assert "policy main is paused: its requests wait" in told["sentence"]
            send_group(project, "second")
            told = until(
                project,
                "second",
                lambda it: (it["reason"], it["group"]["delayed"]) == ("policy_ahead", 2),
            )
            assert told["group"]["repairs"] == 3
            member = why(project, "second/0")
            assert (member["state"], member["reason"]) == ("delayed", "policy_ahead")
            assert "the group second has 0 of the 2 good samples" in member["sentence"]
            policy.resume()
            project.until(delivered=2)
            policy.publish(1)
            project.until(delivered=4)
        assert fleet.stop() == 0
    said = project.run("why", "second").out
    assert "is delivered" in said
