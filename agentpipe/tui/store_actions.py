"""The commands of ``top`` on a real store, with a connection for each: they are rare."""

from __future__ import annotations

import time
from collections import deque
from contextlib import closing
from itertools import chain
from typing import TYPE_CHECKING

from agentpipe.brokers import open_store
from agentpipe.brokers.dead_letter import DeadFilter
from agentpipe.config.collection import load
from agentpipe.errors import AgentpipeError
from agentpipe.operations.cancel import CancelReport, cancel_matching
from agentpipe.operations.dead_letters import Replay, named, pages, with_dead_letters
from agentpipe.operations.pause import pause
from agentpipe.sending.dispatcher import Dispatcher
from agentpipe.tui.state import DeadRow

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from agentpipe.settings import Settings

# More than anybody reads on a screen; `dead list` has them all.
MAX_DEAD = 1_000


class StoreActions:
    """The ``Actions`` of ``agentpipe top``.

    Args:
        collection_file: Where replays find the collections of their tasks, if there is one.
    """

    def __init__(self, settings: Settings, collection_file: Path | None = None) -> None:
        self._settings = settings
        self._collection_file = collection_file or settings.collection_file

    def pause(self, targets: Sequence[str]) -> str:
        """For the whole fleet, until resumed."""
        with closing(open_store(self._settings)) as store:
            pause(store, targets, paused=True)
        return "paused; running tasks go on"

    def resume(self, targets: Sequence[str]) -> str:
        """An agent stays paused while its collection is."""
        with closing(open_store(self._settings)) as store:
            left = pause(store, targets, paused=False).still_paused
        return "still paused: its collection is, or its budget is spent" if left else "resumed"

    def cancel(self, targets: Sequence[str]) -> str:
        """Waiting tasks at once; workers forward their results to the sink."""
        done = CancelReport()
        with closing(open_store(self._settings)) as store:
            collections = {depth.collection for depth in store.stats().queues}
            for name in targets:
                where = {"collection" if name in collections else "queue": name}
                done += cancel_matching(store, **where)
        return f"{len(done.cancelled):,} cancelled, {len(done.told):,} running ones signalled"

    def replay(self, task_ids: Sequence[str]) -> str:
        """To the collections that they came from."""
        with closing(open_store(self._settings)) as store:
            dispatcher = Dispatcher(store)
            if self._collection_file:
                dispatcher.declare(load(self._collection_file, self._settings.max_queue_size))
            letters = with_dead_letters(store)
            done = Replay(letters, dispatcher).run(named(letters, task_ids))
        if done.problems:
            raise AgentpipeError(done.problems[0])
        return "refused: the queue is full" if done.refused else "sent again, as a new task"

    def dead(self) -> Sequence[DeadRow]:
        """The store lists them oldest first, so all are read."""
        with closing(open_store(self._settings)) as store:
            every = chain.from_iterable(pages(with_dead_letters(store), DeadFilter()))
            found = deque(every, MAX_DEAD)
        now = time.time()
        return [
            DeadRow(it.task_id, it.queue, it.outcome, it.reason, max(0.0, now - it.died_at))
            for it in reversed(found)
        ]
