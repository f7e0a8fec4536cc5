"""One vLLM for all tests, and a proxy in front of it for each module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.rl.model_proxy import ModelProxy
from tests.rl.vllm_server import MODEL, VllmServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    server = VllmServer(tmp_path_factory.mktemp("vllm") / "log")
    try:
        server.wait()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def vllm(served: VllmServer) -> VllmServer:
    """The server with its initial weights."""
    served.load(MODEL)
    return served


@pytest.fixture(scope="module")
def proxy(vllm: VllmServer) -> Iterator[ModelProxy]:
    found = ModelProxy(vllm.url)
    yield found
    found.close()
