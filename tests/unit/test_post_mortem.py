"""What a watcher says about the tasks of a worker that died."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from agentpipe.core.delivered import Delivered
from agentpipe.core.thread_marks import NO_RUN
from agentpipe.settings import Settings
from agentpipe.worker.watch.freeze_watch import FreezeWatch
from agentpipe.worker.watch.last_word import HeldClaim, Said
from agentpipe.worker.watch.post_mortem import of_dead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.brokers.records import Worker


CLAIMS = (
    HeldClaim(0, "runs", 1, begun=True),
    HeldClaim(1, "ended", 2, begun=False, ended=True),
    HeldClaim(2, "claimed", 3, begun=False),
)
AHEAD = tuple(Delivered(name, 0) for name in ("runs", "ended", "claimed", "ahead"))


class SparingStore:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[Sequence[Delivered]] = []

    def spare(self, spared: Sequence[Delivered], blamed: Sequence[Delivered]) -> None:
        self.heard += [spared, blamed]

    def leave(self, _worker: Worker) -> int:
        return 0


def heard_of(
    on_loop: int, watch: FreezeWatch, threads: dict[int, int] | None = None
) -> list[Sequence[Delivered]]:
    """What the store hears is spared and blamed, if the loop and these threads executed those."""
    said = Said("w", 1, on_loop, 1, threads or {}, {it.place: it for it in CLAIMS}, AHEAD)
    verdict = of_dead(said, Settings(broker="amqp://localhost"), watch)
    assert verdict is not None
    store: Any = SparingStore()
    verdict.give_back(store)
    return list(store.heard)


def test_a_run_that_had_ended_is_spared_and_distinguished_from_what_never_began() -> None:
    """Regression: both were treated alike, so what had run before waited behind new tasks."""
    spared, blamed = heard_of(NO_RUN, FreezeWatch(5.0))
    runs, ended, *others = AHEAD
    assert spared == [ended._replace(ended=True), *others]
    assert blamed == [runs._replace(begun=True)]


def test_the_run_that_held_its_worker_is_known_even_if_no_other_ran() -> None:
    """Regression: it came back at once, before the runs that had just ended beside it."""
    held_up: Any = SimpleNamespace(is_stopped=False, is_held_up=True)
    _, blamed = heard_of(0, held_up)
    assert blamed == [AHEAD[0]._replace(begun=True, culprit=True)]


def test_of_several_runs_in_threads_none_is_known_to_have_held_the_worker() -> None:
    """Regression: each neighbour of the one that did was marked for good, and came back late."""
    held_up: Any = SimpleNamespace(is_stopped=False, is_held_up=True)
    _, blamed = heard_of(NO_RUN, held_up, threads={11: 0, 12: 2})
    assert [it.task_id for it in blamed] == ["runs", "claimed"]
    assert not any(it.culprit for it in blamed)
