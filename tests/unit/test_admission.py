"""A task is validated once between its source, a file or a program, and a worker."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.records import Claim, Worker
from agentpipe.config.collection import load
from agentpipe.core.task_fields import wrong_values
from agentpipe.errors import ConfigError
from agentpipe.evaluation.checks import evaluator_problems
from agentpipe.sending.admission import admit
from agentpipe.sending.checked_tasks import checked_tasks
from agentpipe.sending.dispatcher import Dispatcher
from agentpipe.settings import Settings
from agentpipe.worker.running.message import ClaimedMessage
from tests.stores import claim_up_to, open_any

if TYPE_CHECKING:
    from pathlib import Path

    from agentpipe.config.function_scope import FunctionScope

COLLECTION = "kind: collection\nspec: {name: crew, config: ./agent.yaml}\n"


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the checks of whole tasks and of their evaluators."""
    counts: Counter[str] = Counter()
    values, problems = wrong_values, evaluator_problems

    def counted_values(known: dict[str, Any]) -> list[str]:
        counts["values"] += 1
        return values(known)

    def counted_check(specs: list[dict[str, Any]], scope: FunctionScope | None = None) -> list[str]:
        counts["evaluators"] += 1
        return problems(specs, scope)

    monkeypatch.setattr("agentpipe.core.task.wrong_values", counted_values)
    monkeypatch.setattr("agentpipe.sending.admission.evaluator_problems", counted_check)
    return counts


def file_of(folder: Path, number: int) -> Path:
    file = folder / "tasks.jsonl"
    judge = {"func": "raw", "op": "contain", "value": "42"}
    lines = [
        json.dumps({"question": f"{each}?", "priority": each, "evaluators": [judge]})
        for each in range(number)
    ]
    file.write_text("\n".join(lines))
    return file


def test_a_task_from_a_file_is_validated_once_until_it_runs(
    tmp_path: Path, checks: Counter[str]
) -> None:
    (tmp_path / "agent.yaml").touch()
    (tmp_path / "collection.yaml").write_text(COLLECTION)
    settings = Settings(broker=f"sqlite:///{tmp_path / 'broker.db'}")
    collections = load(tmp_path / "collection.yaml")
    dispatcher = Dispatcher.open(collections, settings)
    tasks = checked_tasks(file_of(tmp_path, 3))
    marked = [each.with_fields(metadata={"k": "v"}) for each in tasks]
    assert dispatcher.send_many("crew", marked).accepted == 3
    dispatcher.close()
    store, worker = open_any(settings), Worker("w", queues=frozenset({"crew_0"}))
    store.join(worker)
    (claim,) = claim_up_to(1, store, worker)
    message = ClaimedMessage(claim)
    store.close()
    assert message.task is not None
    assert (message.task.question, message.task.metadata) == ("0?", {"k": "v"})
    assert checks == {"values": 3, "evaluators": 3}


def test_a_file_with_a_mistake_gives_no_task(tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text('{"question": "a"}\n{"question": 5}\n{"question": "c", "priority": "x"}\n')
    with pytest.raises(ConfigError) as caught:
        checked_tasks(file)
    assert [problem.line for problem in caught.value.problems] == [2, 3]


def test_whether_the_sender_gave_the_id_is_known_behind_the_file(tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text('{"question": "a", "task_id": "mine"}\n{"question": "b\\nc"}\n')
    first, second = checked_tasks(file)
    assert (first.task.task_id, first.named, second.named) == ("mine", True, False)
    assert (second.task.question, bool(second.task.task_id)) == ("b\nc", True)


def test_an_admitted_task_is_admitted_as_it_is() -> None:
    admitted = admit("Why?")
    assert admit(admitted) is admitted


@pytest.mark.parametrize(
    "payload", [b"\xff", b"[]", b"{}", b'{"schema": 1, "evaluators": 7}', b'{"schema": 2}']
)
def test_what_another_program_wrote_into_a_queue_is_read_with_care(payload: bytes) -> None:
    message = ClaimedMessage(Claim("t", "crew_0", payload, "worker", 1))
    assert message.task is None
    assert message.problem is not None
