"""Replies of MCP servers, valid or not: each finds its request, or harms no other."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentpipe.engines.mcp.jsonrpc import Reply, UnreadableReply, read, request
from tests.mutations import mutated


def reply(number: Any, **what: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, **what}).encode()


@pytest.mark.parametrize("number", [7, "7", 7.0])
def test_a_reply_finds_its_request_however_its_id_is_written(number: Any) -> None:
    assert list(read(reply(number, result={}), {7, 8})) == [Reply(7, {})]


def test_an_error_beside_a_result_counts() -> None:
    assert list(read(reply(7, result={}, error={"code": 1}), {7})) == [Reply(7, error={"code": 1})]
    assert list(read(reply(7, result={}, error=None), {7})) == [Reply(7, {})]


def test_a_late_reply_is_skipped_whatever_it_holds() -> None:
    assert list(read(reply(6, result={"structuredContent": {"id": 7}}), {7})) == []


@pytest.mark.parametrize("number", [None, True, [], {}, "x", -1, 0, 1.5, 999, 2**70])
def test_a_damaged_id_is_that_of_the_only_request(number: Any) -> None:
    (message,) = read(reply(number, result={}), {7})
    assert isinstance(message, UnreadableReply)
    assert message.id == 7
    assert list(read(reply(number, result={}), {7, 8})) == []


@pytest.mark.parametrize("line", [b"starting\n", b"", b"\xff\xfe", b"{not json", b"[[[", b"7"])
def test_what_is_no_message_is_skipped(line: bytes) -> None:
    assert list(read(line, {7})) == []


def test_a_batch_holds_several_replies() -> None:
    both = b"[" + reply(7, result=1) + b"," + reply(8, result=2) + b", 5]"
    assert list(read(both, {7, 8})) == [Reply(7, 1), Reply(8, 2)]


def test_damage_of_any_kind_is_read_without_an_error() -> None:
    for seed in range(3_000):
        for message in read(mutated(reply(7, result={"content": []}), seed), {7}):
            assert getattr(message, "id", 7) is not None


@pytest.mark.parametrize("arguments", [{"a": "\ud800"}, {"a": 2**70}])
def test_any_arguments_can_be_sent(arguments: dict[str, Any]) -> None:
    assert json.loads(request(1, "tools/call", arguments))["id"] == 1
