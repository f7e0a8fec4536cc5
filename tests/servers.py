"""Helpers for fixtures that start real servers."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pytest

from brokers.install import NotInstalledError
from brokers.ports import HOST
from brokers.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Kind = TypeVar("Kind", bound=Server)


class OwnServer(Protocol):
    """``own_server(RedisServer, settings={...})`` starts a server for one test."""

    def __call__(self, kind: type[Kind], **options: Any) -> Kind: ...


def started(server: Kind) -> Kind:
    """Start the server, or skip or fail as ``required`` does."""
    with required():
        server.start()
    return server


@contextmanager
def required() -> Iterator[None]:
    """When a server is not installed, fail in CI and skip elsewhere."""
    try:
        yield
    except NotInstalledError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    names = ("-addext", f"subjectAltName=IP:{HOST}")
    files = ("-out", str(certificate), "-keyout", str(key))
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    return certificate, key
