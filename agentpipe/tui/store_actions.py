"""The commands of ``top`` on a real store. Each opens its own connection: commands are rare."""

from __future__ import annotations

import shutil
import time
from collections import deque
from contextlib import closing
from itertools import chain
from typing import TYPE_CHECKING

from agentpipe.archive import Archive
from agentpipe.brokers import open_store
from agentpipe.brokers.dead_letter import DeadFilter
from agentpipe.config.collection import load
from agentpipe.core.text import one_line
from agentpipe.core.timestamps import seconds_of
from agentpipe.errors import AgentpipeError, ConfigError
from agentpipe.operations.cancel import CancelReport, cancel_matching
from agentpipe.operations.dead_letters import named, pages, with_dead_letters
from agentpipe.operations.explain.lookup import look_up
from agentpipe.operations.pause import pause
from agentpipe.operations.replay import Replay
from agentpipe.sending.dispatcher import Dispatcher
from agentpipe.show.card import draw_result
from agentpipe.show.page import Page, as_text
from agentpipe.sinks import is_searchable
from agentpipe.tui.state import DeadRow, EndedRow

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.text import Text

    from agentpipe.core.result import Result
    from agentpipe.settings import Settings

# Enough to read on a screen; `dead list` shows all.
MAX_DEAD = 1_000
# As many as a tall screen shows: each Result is decoded with its trace.
MAX_ENDED = 50
_SAID_CHARS = 300


class StoreActions:
    """The ``Actions`` of ``agentpipe top``.

    Args:
        collection_file: The file that declares the collections of replayed tasks, if any.
    """

    def __init__(self, settings: Settings, collection_file: Path | None = None) -> None:
        self._settings = settings
        self._collection_file = collection_file or settings.collection_file

    def pause(self, targets: Sequence[str]) -> str:
        """Pause the targets for the whole fleet, until they are resumed."""
        with closing(open_store(self._settings)) as store:
            pause(store, targets, paused=True)
        return "paused; running tasks go on"

    def resume(self, targets: Sequence[str]) -> str:
        """Resume the targets; an agent stays paused while its collection is paused."""
        with closing(open_store(self._settings)) as store:
            left = pause(store, targets, paused=False).still_paused
        return "still paused: its collection is, or its budget is spent" if left else "resumed"

    def cancel(self, targets: Sequence[str]) -> str:
        """Cancel waiting tasks at once; workers forward their results to the sink."""
        done = CancelReport()
        with closing(open_store(self._settings)) as store:
            collections = {depth.collection for depth in store.stats().queues}
            for name in targets:
                where = {"collection" if name in collections else "queue": name}
                done += cancel_matching(store, **where)
        return done.sentence

    def replay(self, task_ids: Sequence[str]) -> str:
        """Send the dead letters again, to the collections that they came from."""
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
        """The newest dead letters; reads all of them, since the store lists the oldest first."""
        with closing(open_store(self._settings)) as store:
            every = chain.from_iterable(pages(with_dead_letters(store), DeadFilter()))
            found = deque(every, MAX_DEAD)
        now = time.time()
        return [
            DeadRow(it.task_id, it.queue, it.outcome, it.reason, max(0.0, now - it.died_at))
            for it in reversed(found)
        ]

    def ended(self, queue: str) -> Sequence[EndedRow]:
        """The ended tasks in the archive."""
        with Archive.open(self._settings) as archive:
            return list(map(_ended, archive.last_of(queue, MAX_ENDED)))

    def page(self, task_id: str) -> Sequence[Text]:
        """The task as ``show`` prints it; without a Result, what ``why`` says."""
        page = Page(shutil.get_terminal_size((100, 24)).columns)
        result = self._result(task_id)
        if result is not None:
            draw_result(page, result)
            return page.lines
        page.line((task_id, "bold"))
        for found in look_up([task_id], self._settings):
            page.block(found.sentence)
            page.block(found.next, "next: ", "dim")
        return page.lines

    def _result(self, task_id: str) -> Result | None:
        """The task's Result; None if there is none, or if the sink is not searchable."""
        if not is_searchable(self._settings):
            return None
        try:
            with Archive.open(self._settings) as archive:
                return archive.result(task_id)
        except ConfigError:
            return None


def _ended(result: Result) -> EndedRow:
    error = result.error or {}
    said = f"{error.get('type', '')}: {error.get('message', '')}" if error else ""
    finished, started = seconds_of(result.finished_at), seconds_of(result.started_at)
    return EndedRow(
        result.task_id,
        result.outcome,
        result.reward,
        finished or 0.0,
        finished - started if finished is not None and started is not None else None,
        one_line(said or as_text(result.result), _SAID_CHARS),
    )
