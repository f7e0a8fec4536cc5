"""DrainedEnd: exactly one worker of a Dramatiq master ends itself, the last one."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.statistics import WorkerSeen
from agentpipe.settings import Settings
from agentpipe.worker.ending import drained_end
from agentpipe.worker.ending.drained_end import DrainedEnd
from tests.unit.fleets import fleet

if TYPE_CHECKING:
    from collections.abc import Sequence

ME = os.getpid()


class Fleet:
    """Reports workers with these pids as still serving."""

    def __init__(self, *pids: int) -> None:
        self.pids: Sequence[int] = pids

    def stats(self) -> Any:
        return fleet(
            workers=tuple(WorkerSeen(f"w-{pid}", "h", pid, 1, 0, 0.0) for pid in self.pids)
        )


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The signals sent; the master has this process and one with a higher pid as children."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr("os.kill", lambda pid, kind: sent.append((pid, kind)))
    monkeypatch.setattr(drained_end, "children_of", lambda _: [ME, ME + 1])
    return sent


def end(store: Any, *, may_end: bool = True, **settings: Any) -> DrainedEnd:
    return DrainedEnd(store, Settings(broker="", sink="", **settings), may_end=may_end)


def test_it_waits_for_the_others_and_ends_once(sent: list[tuple[int, int]]) -> None:
    store = Fleet(ME + 1, 1)
    ending = end(store)
    ending()
    assert sent == []
    store.pids = [1]
    ending()
    ending()
    assert sent == [(ME, signal.SIGTERM)]


def test_one_that_is_not_the_first_leaves_it_to_the_master(
    sent: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drained_end, "children_of", lambda _: [ME - 1, ME])
    ending = end(Fleet())
    ending()
    monkeypatch.setattr(drained_end, "children_of", lambda _: [ME])
    ending()
    assert sent == []


def test_a_supervised_one_ends_by_its_master_and_a_program_goes_on(
    sent: list[tuple[int, int]],
) -> None:
    end(Fleet(ME + 1), may_end=False)()
    assert sent == []
    end(Fleet(ME + 1), supervisor_pid=1)()
    assert sent == [(os.getppid(), signal.SIGTERM)]
