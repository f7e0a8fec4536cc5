"""An agent that runs until a file is there, so that a test says when its runs end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support import wait_until

if TYPE_CHECKING:
    from tests.integration.project import Project

_SOURCE = """
import asyncio
import os

from toys import Toy


class Waiter(Toy):
    '''Runs until the file that the question names is there; takes its time to clean up.'''

    async def execute(self, task, context):
        self.journal.note("started", task, context)
        try:
            while not os.path.exists(task.question):
                await asyncio.sleep(0.01)
        finally:
            await asyncio.sleep(%s)
            self.journal.note("ended", task, context)
        return "done"
"""


def waiter(clean_up_s: float) -> str:
    """The source of the module ``waiter``, for an agent ``waiter:Waiter``."""
    return _SOURCE % clean_up_s


def until_started(project: Project, task_id: str) -> None:
    """Wait until this task runs."""

    def started() -> bool:
        return any(entry["task_id"] == task_id for entry in project.journal("started"))

    wait_until(started, 60, f"{task_id} runs")
