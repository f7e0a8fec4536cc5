"""AsyncGrpoRollouts reads in one thread, however often the trainer starts it."""

from __future__ import annotations

import threading
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from agentpipe.errors import ResultTimeout
from agentpipe.trl.async_grpo import AsyncGrpoRollouts

if TYPE_CHECKING:
    from collections.abc import Iterator


class Idle:
    """A loop to which no group comes."""

    max_staleness, counts = None, Counter[str]()

    def groups(self) -> Iterator[Any]:
        threading.Event().wait(0.01)
        if not self.counts:
            raise ResultTimeout
        yield

    def close(self) -> None:
        """Nothing is open."""


def readers() -> int:
    return sum(each.name == "agentpipe-rollouts" for each in threading.enumerate())


def test_a_second_start_begins_no_second_thread() -> None:
    loop: Any = Idle()
    policy: Any = SimpleNamespace(version=0)
    with AsyncGrpoRollouts(loop, policy, name="own", queue_size=1, kind="grpo") as rollouts:
        before = readers()
        for _ in range(2):
            rollouts.start()
        assert readers() == before + 1
