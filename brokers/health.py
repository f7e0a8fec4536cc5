"""Checks that a server answers in its own protocol, without client libraries."""

from __future__ import annotations

import http.client
import socket
import struct
from base64 import b64encode

from brokers.ports import HOST

_TIMEOUT_S = 2.0
_METADATA, _METADATA_VERSION = 3, 1


def redis(port: int) -> bool:
    """Whether Redis takes commands, or asks for a password."""
    with _connect(port) as conversation:
        conversation.sendall(b"PING\r\n")
        return _read(conversation, 7).startswith((b"+PONG", b"-NOAUTH"))


def rabbitmq(port: int, user: str, password: str) -> bool:
    """Whether ``user`` can log in to RabbitMQ's vhost ``/``."""
    with _connect(port) as conversation:
        conversation.sendall(b"AMQP\x00\x00\x09\x01")
        _amqp_receive(conversation, 10)  # start
        login = f"\0{user}\0{password}".encode()
        proof = b"\x05PLAIN" + struct.pack(">I", len(login)) + login + b"\x05en_US"
        _amqp_send(conversation, 11, b"\0\0\0\0" + proof)
        tune = _amqp_receive(conversation, 30)
        _amqp_send(conversation, 31, tune)
        _amqp_send(conversation, 40, b"\x01/\x00\x00")
        _amqp_receive(conversation, 41)  # the vhost is open
        _amqp_send(conversation, 50, struct.pack(">HBHH", 200, 0, 0, 0))
        _amqp_receive(conversation, 51)
        return True


def management(port: int, user: str, password: str) -> bool:
    """Whether RabbitMQ's management API answers."""
    connection = http.client.HTTPConnection(HOST, port, timeout=_TIMEOUT_S)
    try:
        key = b64encode(f"{user}:{password}".encode()).decode()
        connection.request("GET", "/api/whoami", headers={"Authorization": f"Basic {key}"})
        return connection.getresponse().status == http.HTTPStatus.OK
    except http.client.HTTPException as error:
        raise ConnectionError(str(error)) from error
    finally:
        connection.close()


def kafka(port: int) -> bool:
    """Whether Kafka lists a broker in its metadata."""
    # Header (API key, version, correlation id, null client id), then an empty list of topics.
    request = struct.pack(">hhihi", _METADATA, _METADATA_VERSION, 1, -1, 0)
    with _connect(port) as conversation:
        conversation.sendall(struct.pack(">i", len(request)) + request)
        _, number, brokers = struct.unpack(">iii", _read(conversation, 12))
        return bool(number == 1 and brokers > 0)


def _connect(port: int) -> socket.socket:
    return socket.create_connection((HOST, port), _TIMEOUT_S)


def _read(conversation: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = conversation.recv(size - len(data))
        if not more:
            raise ConnectionError("the server closed the connection")
        data += more
    return data


def _amqp_send(conversation: socket.socket, method: int, arguments: bytes) -> None:
    payload = struct.pack(">HH", 10, method) + arguments
    conversation.sendall(struct.pack(">BHI", 1, 0, len(payload)) + payload + b"\xce")


def _amqp_receive(conversation: socket.socket, method: int) -> bytes:
    kind, _, size = struct.unpack(">BHI", _read(conversation, 7))
    if kind != 1:
        raise ConnectionError("this is not AMQP")
    payload = _read(conversation, size + 1)[:-1]
    if payload[:4] != struct.pack(">HH", 10, method):
        raise ConnectionError(f"AMQP: refused, {payload[4:].decode(errors='replace')}")
    return payload[4:]
