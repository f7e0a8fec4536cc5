"""A response is the same however its bytes arrive; invalid responses are refused."""

from __future__ import annotations

import random

import httpx2
import pytest

from agentpipe.engines.http.messages import MAX_HEAD_BYTES, ResponseMessage

SIZED = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx-a: b\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
HINTED = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + SIZED
CLOSED = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello"
UNTIL_THE_END = b"HTTP/1.1 200 OK\r\n\r\nhello"


def fed(data: bytes, pieces: int = 1, *, ends: bool = False) -> ResponseMessage:
    message = ResponseMessage()
    chooser = random.Random(pieces)
    cuts = sorted(chooser.randrange(len(data) + 1) for _ in range(pieces - 1))
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        if start < end:
            message.feed(data[start:end])
    if ends:
        message.end()
    return message


@pytest.mark.parametrize("pieces", [1, 2, 7, 60])
@pytest.mark.parametrize("data", [SIZED, CHUNKED, HINTED, CLOSED])
def test_a_response_arrives_in_any_pieces(data: bytes, pieces: int) -> None:
    message = fed(data, pieces)
    assert (message.status, message.is_whole, message.taken()) == (200, True, b"hello")
    assert message.leaves_open is (data is not CLOSED)
    assert b"link" not in dict(message.headers)


def test_a_body_without_a_size_ends_with_its_connection() -> None:
    message = fed(UNTIL_THE_END)
    assert not message.is_whole
    message.end()
    assert (message.is_whole, message.leaves_open, message.taken()) == (True, False, b"hello")


@pytest.mark.parametrize("data", [b"", SIZED[:20], SIZED[:-1], CHUNKED[:-4]])
def test_a_cut_response_is_none(data: bytes) -> None:
    with pytest.raises(httpx2.RemoteProtocolError, match="closed the connection"):
        fed(data, ends=True)


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_second_response_is_left_out_and_closes(pieces: int) -> None:
    message = fed(SIZED + SIZED.replace(b"hello", b"other"), pieces)
    assert (message.taken(), message.leaves_open) == (b"hello", False)


@pytest.mark.parametrize(
    "data",
    [
        b"\0\xff\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\na",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * MAX_HEAD_BYTES,
        b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_HEAD_BYTES // 20),
    ],
)
def test_what_is_no_response_is_refused(data: bytes) -> None:
    with pytest.raises(httpx2.RemoteProtocolError):
        fed(data)
