"""What the fixtures for real servers share."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pytest

from brokers.install import NotInstalledError
from brokers.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

Kind = TypeVar("Kind", bound=Server)


class OwnServer(Protocol):
    """``own_server(RedisServer, settings={...})`` starts one for this test alone."""

    def __call__(self, kind: type[Kind], **options: Any) -> Kind: ...


def started(server: Kind) -> Kind:
    """The server, running."""
    with needed():
        server.start()
    return server


@contextmanager
def needed() -> Iterator[None]:
    """A server that cannot be had is a failure in CI, and a skip elsewhere."""
    try:
        yield
    except NotInstalledError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
