"""A child's files: after a shortage of files, none is left open."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.core.context import Context
from agentpipe.core.shortage import shortage_of
from agentpipe.core.task import Task
from agentpipe.engines.process.agent import ProcessAgent
from agentpipe.engines.process.launcher import Launcher

if TYPE_CHECKING:
    from collections.abc import Callable


def failing_after(call: Callable[..., Any], counted: itertools.count[int], last: int) -> Any:
    def limited(*args: Any) -> Any:
        if next(counted) > last:
            raise OSError(errno.EMFILE, "Too many open files")
        return call(*args)

    return limited


def open_files() -> set[str]:
    return {entry.name for entry in os.scandir("/proc/self/fd")}


@pytest.mark.parametrize("given", range(3))
@pytest.mark.parametrize("kind", ["command", "agent"])
def test_what_was_opened_is_closed_and_it_is_a_shortage(
    kind: str, given: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "agent" and given == 2:
        pytest.skip("an agent has one pipe, and a copy of its end")
    counted = itertools.count(1)
    for name in ("pipe", "dup"):
        monkeypatch.setattr(os, name, failing_after(getattr(os, name), counted, given))

    async def start() -> None:
        launcher = Launcher()
        if kind == "command":
            await launcher.start_piped(["true"], {})
        else:
            await ProcessAgent(launcher, {}, {}).execute(Task("?"), Context())

    before = open_files()
    with pytest.raises(OSError, match="Too many open files") as failed:
        asyncio.run(start())
    assert shortage_of(failed.value) == "open files"
    assert open_files() == before
