"""JSON-RPC 2.0 as a client of tools needs it (https://www.jsonrpc.org/specification)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.core.outside import read_json

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

METHOD_NOT_FOUND = -32601
_ID = re.compile(rb'"id"\s*:\s*(\d{1,18})')
# A server may print what is no message at all.
_MARKS = (b'"jsonrpc"', b'"result"', b'"error"')
_MAX_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one of our requests: a result or an error, whatever they hold."""

    id: int
    result: Any = None
    error: Any = None


@dataclass(frozen=True, slots=True)
class UnreadableReply:
    """An answer to one of our requests that cannot be understood."""

    id: int
    text: str


@dataclass(frozen=True, slots=True)
class ServerRequest:
    """The server asks the client."""

    id: Any
    method: str


@dataclass(frozen=True, slots=True)
class Notification:
    """The server says something that needs no answer."""

    method: str


Message = Reply | UnreadableReply | ServerRequest | Notification


def request(number: int, method: str, params: Any) -> bytes:
    """A request; its reply will have the same number."""
    return _encoded(id=number, method=method, params=params)


def notification(method: str, params: Any = None) -> bytes:
    """A message that has no reply."""
    return _encoded(method=method, **({} if params is None else {"params": params}))


def result(number: Any, value: Any) -> bytes:
    """The answer to a server's request."""
    return _encoded(id=number, result=value)


def refusal(number: Any) -> bytes:
    """The answer to a server's request for what this client does not do."""
    return _encoded(id=number, error={"code": METHOD_NOT_FOUND, "message": "not supported"})


def _encoded(**message: Any) -> bytes:
    return orjson.dumps({"jsonrpc": "2.0", **message})


def read(data: bytes, awaited: Collection[int]) -> Iterator[Message]:
    """The messages in ``data``; what is none of the protocol's is skipped.

    ``awaited`` are the numbers of the requests without a reply: a broken message with one of these
    ids is the reply to it, and one without an id if it is the only one.
    """
    try:
        value = read_json(data)
    except ValueError:
        yield from _unreadable(data, awaited)
        return
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, dict):
            yield from _message(each, awaited)


def _message(message: dict[str, Any], awaited: Collection[int]) -> Iterator[Message]:
    number, method = message.get("id"), message.get("method")
    if isinstance(method, str):
        yield Notification(method) if number is None else ServerRequest(number, method)
    elif type(number) is not int or number not in awaited:
        yield from _unreadable(orjson.dumps(message, default=str), awaited)
    elif message.get("error") is not None:
        yield Reply(number, error=message["error"])
    elif "result" in message:
        yield Reply(number, result=message["result"])
    else:
        yield UnreadableReply(number, "neither a result nor an error")


def _unreadable(data: bytes, awaited: Collection[int]) -> Iterator[UnreadableReply]:
    ids = [int(found) for found in _ID.findall(data)]
    number = next((each for each in ids if each in awaited), None)
    if not ids and len(awaited) == 1 and any(mark in data for mark in _MARKS):
        (number,) = awaited
    if number is not None:
        yield UnreadableReply(number, data[:_MAX_SHOWN].decode(errors="replace"))
