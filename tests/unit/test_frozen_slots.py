"""Frozen records built through their slots equal those that the class builds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import orjson
import pytest

from agentpipe.core.slots import Slots
from agentpipe.core.task import Task, encode_with


@dataclass(frozen=True, slots=True)
class Record:
    name: str
    size: int = 3
    parts: list[int] = field(default_factory=list)


SLOTS = Slots(Record)


def test_a_record_has_the_values_given_and_defaults_of_its_own() -> None:
    first, second = (SLOTS.filled({"name": "a", "other": 1}) for _ in range(2))
    assert first == Record("a")
    first.parts.append(1)
    assert second.parts == []


def test_tasks_may_share_what_is_empty_until_somebody_may_change_it() -> None:
    fields = {"schema": 1, "question": "q", "evaluators": [{"func": "raw"}], "seed": 0}
    first, second = (Task.decode(dict(fields), shared=True) for _ in range(2))
    assert first.metadata is second.metadata
    for own in (first.unshared(), first.copy(), Task.decode(fields)):
        assert own == first
        own.metadata["a"] = 1
        own.prepares.append({})
    assert second == Task("q", evaluators=[{"func": "raw"}], seed=0)


def test_a_field_without_a_default_is_needed() -> None:
    with pytest.raises(TypeError):
        SLOTS.filled({"size": 1})


def test_a_changed_record_is_another() -> None:
    record = Record("a", parts=[1])
    assert SLOTS.changed(record, {"size": 4}) == replace(record, size=4)
    assert record.size == 3


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"run": "v2", "task_id": "v2/1", "group_id": None},
        {"priority": 0},
        {"metadata": {"a": 2}},
        {"task_id": ""},
        {"task_id": 'v2/"ä', "priority": 0},
    ],
)
def test_an_encoded_task_with_other_fields_is_that_task(fields: dict[str, Any]) -> None:
    for task in (Task("q"), Task("q", task_id="t", priority=2, metadata={"a": 1})):
        encoded = encode_with(task.encode(), asdict(task), fields)
        assert Task.decode(orjson.loads(encoded)) == replace(task, **fields)
        assert encoded.count(b'"task_id"') <= 1


def test_an_id_is_replaced_without_encoding_the_rest_again() -> None:
    task = Task("q", task_id="t", metadata={"text": "t"})
    spaced = task.encode().replace(b'"metadata":{', b'"metadata":{ ')
    encoded = encode_with(spaced, asdict(task), {"task_id": "v2/t"})
    assert b'"metadata":{ ' in encoded
    assert Task.decode(orjson.loads(encoded)) == replace(task, task_id="v2/t")
