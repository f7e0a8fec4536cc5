"""JSON-RPC 2.0 as a client of tools needs it (https://www.jsonrpc.org/specification)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentpipe.core.outside import CostlyJson, encoded, read_json

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

METHOD_NOT_FOUND = -32601
_ID = re.compile(rb'"id"\s*:\s*(\d{1,18})')
_MAX_ID = 1_000
_DIGITS = re.compile(r"[0-9]{1,15}")
MAX_NUMBER = 2**53
# A server may print what is not a message at all.
_MARKS = (b'"jsonrpc"', b'"result"', b'"error"')
# More than an error shows: a credential in it is masked before the error is cut.
_MAX_SHOWN = 20_000


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
    return encoded({"jsonrpc": "2.0", **message})


def read(data: bytes, awaited: Collection[int]) -> Iterator[Message]:
    """The messages in ``data``; what is none of the protocol's is skipped.

    ``awaited`` are the numbers of the requests without a reply: a broken message with one of these
    ids is the reply to it, and one without an id if it is the only one.
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
    """An id is repeated in the answer: one of no use is not kept until then."""
    if given is None:
        yield Notification(method)
    elif isinstance(given, (int, float)) or (isinstance(given, str) and len(given) <= _MAX_ID):
        yield ServerRequest(given, method)


def _number(given: Any) -> int:
    """The number of a request as a server repeats it, perhaps as text or as 1.0; 0 is none."""
    if isinstance(given, str):
        return int(given) if _DIGITS.fullmatch(given) else 0
    is_number = isinstance(given, (int, float)) and not isinstance(given, bool)
    return int(given) if is_number and 0 < given < MAX_NUMBER and given == int(given) else 0


def _misdirected(
    message: dict[str, Any], number: int, awaited: Collection[int]
) -> Iterator[UnreadableReply]:
    """A reply that nothing waits for may be late; with an id that was never sent, it is damaged."""
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
