"""A server whose address is taken: the command line is right, and works once it is free."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from agentpipe.cli import main
from agentpipe.settings import Settings
from agentpipe.sinks.sqlite import SqliteSink
from tests.stores import open_any

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("command", ["metrics", "web"])
def test_a_port_that_is_taken_is_a_failure(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broker, sink = f"sqlite:///{tmp_path}/broker.db", f"sqlite:///{tmp_path}/results.db"
    open_any(Settings(broker=broker)).close()
    SqliteSink(sink).close()
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        code = main([command, "--port", port, "--broker", broker, "--sink", sink])
    said = f"cannot listen on 127.0.0.1 port {port}: Address already in use"
    assert (code, said in capsys.readouterr().err) == (1, True)
