"""The proxy that cuts connections forwards only to its servers."""

from __future__ import annotations

import socket
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest
from kafka.net.socks5 import Socks5Proxy

from agentpipe.chaos.proxy import HOST, Proxy
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def echo_server() -> Iterator[tuple[str, int]]:
    """A server that echoes what it receives."""
    with closing(socket.create_server((HOST, 0))) as server:
        threading.Thread(target=_serve, args=(server,), daemon=True).start()
        yield HOST, server.getsockname()[1]


def _serve(server: socket.socket) -> None:
    try:
        while True:
            client, _ = server.accept()
            threading.Thread(target=_echo, args=(client,), daemon=True).start()
    except OSError:
        return


def _echo(client: socket.socket) -> None:
    with closing(client):
        while data := client.recv(100):
            client.sendall(data)


def connected(proxy: Proxy) -> socket.socket:
    return socket.create_connection((HOST, proxy.port), 10)


def said_back(client: socket.socket, words: bytes) -> bytes:
    client.sendall(words)
    return client.recv(100)


def is_refused(proxy: Proxy) -> bool:
    with closing(connected(proxy)) as client:
        try:
            return said_back(client, b"hello") == b""
        except ConnectionError:
            return True


def test_it_passes_on_until_it_cuts_and_again_after_that() -> None:
    with echo_server() as server, Proxy([server]) as proxy:
        with closing(connected(proxy)) as client:
            assert said_back(client, b"hello") == b"hello"
            proxy.refuse()
            assert client.recv(100) == b""
        assert is_refused(proxy)
        assert proxy.cuts == 1
        proxy.accept()
        wait_until(lambda: not is_refused(proxy), 10, "it passes on again")


@pytest.mark.parametrize("name", [HOST, "localhost"])
def test_a_client_names_one_of_its_servers(name: str) -> None:
    with (
        echo_server() as (_, port),
        Proxy([(name, port)], by_name=True) as proxy,
        closing(_by_name(proxy, name, port)) as client,
    ):
        assert said_back(client, b"hello") == b"hello"


def test_a_client_that_names_another_server_is_refused() -> None:
    with (
        echo_server() as (_, port),
        Proxy([(HOST, port + 1)], by_name=True) as proxy,
        pytest.raises(ConnectionError),
    ):
        _by_name(proxy, HOST, port)


def _by_name(proxy: Proxy, host: str, port: int) -> socket.socket:
    """Connect by host name, as Kafka's client library does."""
    client = Socks5Proxy(f"socks5h://{HOST}:{proxy.port}")
    sock: socket.socket = client.socket()
    sock.settimeout(10)
    code = client.connect_ex(sock, (host, port))
    if code:
        sock.close()
        raise ConnectionRefusedError(code)
    return sock
