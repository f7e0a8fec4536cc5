"""A handle is the id string that `send` has always returned."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import threading

import orjson
import pytest

from agentpipe.core.result import Result
from agentpipe.errors import ConfigError, NoResult
from agentpipe.sending.handle import Handle
from agentpipe.sending.pending import Pending


def test_a_handle_is_its_id_wherever_a_string_is_wanted() -> None:
    handle = Handle(Pending("t-1"), None)
    assert handle == "t-1"
    assert {str(handle): 1}[handle] == 1
    assert f"{handle}" == "t-1"
    assert type(handle.task_id) is str
    assert orjson.dumps({"id": handle}) == b'{"id":"t-1"}'
    assert json.dumps([handle]) == '["t-1"]'
    for copied in (pickle.loads(pickle.dumps(handle)), copy.deepcopy(handle), copy.copy(handle)):
        assert copied == "t-1"
        assert type(copied) is str


def test_without_a_reader_it_says_how_to_get_one() -> None:
    with pytest.raises(ConfigError, match=r"Dispatcher\.open"):
        Handle(Pending("t-1"), None).result()

    async def wait() -> Result:
        return await Handle(Pending("t-1"), None)

    with pytest.raises(ConfigError, match="reads no results"):
        asyncio.run(wait())


def test_a_pending_is_settled_once_and_calls_each_that_waits_once() -> None:
    pending, called = Pending("t"), list[str]()
    forgotten = threading.Event()
    pending.call(lambda: called.append("before"))
    pending.call(forgotten.set)
    pending.forget(forgotten.set)
    pending.settle(Result(task_id="t", result="first"))
    pending.settle(NoResult("late"))
    pending.call(lambda: called.append("after"))
    assert called == ["before", "after"]
    assert not forgotten.is_set()
    assert pending.get().result == "first"


def test_an_earlier_error_does_not_serve_a_later_handle() -> None:
    pending = Pending("t")
    assert pending.serves_for(Pending("t"))
    pending.settle(NoResult("refused"))
    assert not pending.serves_for(Pending("t", past=True))
    with pytest.raises(NoResult):
        pending.get()


def test_a_result_serves_those_who_ask_for_a_past_one_only() -> None:
    pending = Pending("t")
    pending.settle(Result(task_id="t"))
    assert pending.serves_for(Pending("t", past=True))
    assert not pending.serves_for(Pending("t"))
