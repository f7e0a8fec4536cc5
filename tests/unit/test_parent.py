"""The process that started this one, by any start method."""

from __future__ import annotations

import multiprocessing
import os
import signal
from typing import Any

import pytest

from agentpipe.core.parent import Parent
from tests.support import wait_until


def _look(pipe: Any) -> None:
    parent = Parent.of_this_process()
    pipe.send((parent.pid, parent.is_python, parent.is_gone()))
    while not parent.is_gone():
        pipe.poll(0.02)
    pipe.send("gone")


def _between(method: str, pipe: Any) -> None:
    context: Any = multiprocessing.get_context(method)
    child = context.Process(target=_look, args=(pipe,))
    child.start()
    child.join()


def test_a_program_of_a_shell_has_a_parent_that_is_no_python() -> None:
    parent = Parent.of_this_process()
    assert (parent.pid, parent.is_python, parent.is_gone()) == (os.getppid(), False, False)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_sees_that_its_parent_was_killed(method: str) -> None:
    here, there = multiprocessing.Pipe()
    between = multiprocessing.get_context("spawn").Process(target=_between, args=(method, there))
    between.start()
    wait_until(lambda: here.poll(0), 30, "the child looks")
    assert here.recv() == (between.pid, True, False)
    os.kill(between.pid or 0, signal.SIGKILL)
    between.join()
    wait_until(lambda: here.poll(0), 10, "the child sees it")
    assert here.recv() == "gone"
