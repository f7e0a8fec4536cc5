"""JSON-RPC 2.0 as an MCP client needs it (https://www.jsonrpc.org/specification)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentpipe.core.numbers import is_number
from agentpipe.core.outside import CostlyJson, encoded, read_json

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

METHOD_NOT_FOUND = -32601
_ID = re.compile(rb'"id"\s*:\s*(\d{1,18})')
_MAX_ID = 1_000
_DIGITS = re.compile(r"[0-9]{1,15}")
MAX_NUMBER = 2**53
# A server can print text that is not a message.
_MARKS = (b'"jsonrpc"', b'"result"', b'"error"')
# More than an error shows, because credentials are masked before the error is cut.
_MAX_SHOWN = 20_000


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one of our requests: a result or an error, of any type."""

    id: int
    result: Any = None
    error: Any = None


@dataclass(frozen=True, slots=True)
class UnreadableReply:
    """An unreadable answer to one of our requests."""

    id: int
    text: str


@dataclass(frozen=True, slots=True)
class ServerRequest:
    """A request from the server to the client."""

    id: Any
    method: str


@dataclass(frozen=True, slots=True)
class Notification:
    """A message from the server that needs no answer."""

    method: str


Message = Reply | UnreadableReply | ServerRequest | Notification


def request(number: int, method: str, params: Any) -> bytes:
    """Encode a request; its reply will have the same number."""
    return _encoded(id=number, method=method, params=params)


def notification(method: str, params: Any = None) -> bytes:
    """Encode a message that has no reply."""
    return _encoded(method=method, **({} if params is None else {"params": params}))


def result(number: Any, value: Any) -> bytes:
    """Encode the answer to a server's request."""
    return _encoded(id=number, result=value)


def refusal(number: Any) -> bytes:
    """Encode the refusal of a server's request that this client does not support."""
    return _encoded(id=number, error={"code": METHOD_NOT_FOUND, "message": "not supported"})


def _encoded(**message: Any) -> bytes:
    return encoded({"jsonrpc": "2.0", **message})


def read(data: bytes, awaited: Collection[int]) -> Iterator[Message]:
    """Yield the messages in ``data``; skip what does not belong to the protocol.

    ``awaited`` are the numbers of the requests without a reply. A broken message with one of these
    ids counts as its reply. A broken message without an id counts only if exactly one reply is
    awaited.
    """
    try:
        value = read_json(data)
    except CostlyJson as error:
        yield from _unreadable(data, awaited, str(error))
        return
    except ValueError:
        yield from _unreadable(data, awaited)
        return
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, dict):
            yield from _message(each, awaited)


def _message(message: dict[str, Any], awaited: Collection[int]) -> Iterator[Message]:
    given, method = message.get("id"), message.get("method")
    if isinstance(method, str):
        yield from _from_server(given, method)
        return
    number = _number(given)
    if number not in awaited:
        yield from _misdirected(message, number, awaited)
    elif message.get("error") is not None:
        yield Reply(number, error=message["error"])
    elif "result" in message:
        yield Reply(number, result=message["result"])
    else:
        yield UnreadableReply(number, f"neither a result nor an error: {_shown(encoded(message))}")


def _from_server(given: Any, method: str) -> Iterator[Message]:
    """Read a server's own message; requests with an unusable id are dropped, not answered."""
    if given is None:
        yield Notification(method)
    elif isinstance(given, (int, float)) or (isinstance(given, str) and len(given) <= _MAX_ID):
        yield ServerRequest(given, method)


def _number(given: Any) -> int:
    """The number of a reply, which a server may send as a string or as 1.0; 0 if it is invalid."""
    if isinstance(given, str):
        return int(given) if _DIGITS.fullmatch(given) else 0
    return int(given) if is_number(given) and 0 < given < MAX_NUMBER and given == int(given) else 0


def _misdirected(
    message: dict[str, Any], number: int, awaited: Collection[int]
) -> Iterator[UnreadableReply]:
    """Handle a reply that is not awaited: late if its id was sent before, damaged otherwise."""
    if len(awaited) == 1 and not 0 < number < max(awaited):
        (only,) = awaited
        yield UnreadableReply(only, _shown(encoded(message)))


def _shown(data: bytes) -> str:
    return data[:_MAX_SHOWN].decode(errors="replace")


def _unreadable(data: bytes, awaited: Collection[int], why: str = "") -> Iterator[UnreadableReply]:
    ids = [int(found) for found in _ID.findall(data)]
    number = next((each for each in ids if each in awaited), None)
    if not ids and len(awaited) == 1 and any(mark in data for mark in _MARKS):
        (number,) = awaited
    if number is not None:
        yield UnreadableReply(number, why or _shown(data))
