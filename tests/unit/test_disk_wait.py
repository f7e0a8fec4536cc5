"""The wait for the disk, outside a worker's turns."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

from agentpipe.errors import Unreachable
from agentpipe.worker.claims import disk_wait
from agentpipe.worker.claims.disk_wait import DiskWait
from agentpipe.worker.contact import BrokerContact
from tests.support import wait_until


class Disk:
    """A store whose ``sync`` blocks until ``free`` is set."""

    waits_for_disk = True
    error: Exception = Unreachable("the disk is away")

    def __init__(self) -> None:
        self.syncs, self.failures = 0, 0
        self.free = threading.Event()

    def sync(self) -> None:
        self.free.wait(20)
        if self.failures:
            self.failures -= 1
            raise self.error
        self.syncs += 1


def test_a_turn_does_not_wait_and_what_is_settled_meanwhile_shares_a_wait() -> None:
    disk, told = Disk(), threading.Event()
    waiting: Any = DiskWait(disk, told.set, BrokerContact())  # type: ignore[arg-type]
    waiting.start()
    for _ in range(100):
        waiting.notify()
    assert not told.is_set()
    disk.free.set()
    wait_until(told.is_set, 20, "it is on the disk")
    wait_until(lambda: disk.syncs >= 1, 20, "one wait")
    assert disk.syncs <= 2
    waiting.stop()


def test_a_disk_that_fails_is_asked_again(monkeypatch: Any) -> None:
    monkeypatch.setattr(disk_wait, "RETRY_S", 0.01)
    disk, told = Disk(), threading.Event()
    disk.failures = 2
    disk.free.set()
    waiting = DiskWait(disk, told.set, BrokerContact())  # type: ignore[arg-type]
    waiting.start()
    waiting.notify()
    wait_until(told.is_set, 20, "it is on the disk")
    assert (disk.failures, disk.syncs) == (0, 1)
    waiting.stop()


def test_an_unexpected_error_does_not_end_the_thread(monkeypatch: Any) -> None:
    monkeypatch.setattr(disk_wait, "RETRY_S", 0.01)
    disk, told = Disk(), threading.Event()
    disk.failures, disk.error = 1, RuntimeError("a store of a third party")
    disk.free.set()
    waiting = DiskWait(disk, told.set, BrokerContact())  # type: ignore[arg-type]
    waiting.start()
    waiting.notify()
    wait_until(told.is_set, 20, "it is on the disk")
    waiting.stop()


def test_a_store_that_never_waits_is_asked_in_the_turn_itself() -> None:
    done: list[str] = []
    store: Any = SimpleNamespace(waits_for_disk=False, sync=lambda: done.append("sync"))
    waiting = DiskWait(store, lambda: done.append("forward"), BrokerContact())
    waiting.start()
    waiting.notify()
    assert done == ["sync", "forward"]
