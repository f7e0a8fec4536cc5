"""Readers that tests run in separate processes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe.settings import Settings
from agentpipe.sinks.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Iterable


def use_some(url: str, group: str, number: int, use_s: float, used: Any) -> None:
    """Read ``number`` results, spend ``use_s`` on each, and leave the group."""
    settings = Settings(sink=url)
    with Stream.open(settings, group=group, start="beginning") as stream:
        for count, result in enumerate(stream, 1):
            time.sleep(use_s)  # Stands for a training step.
            used.put(result.task_id)
            if count == number:
                stream.stop()


def use_all(url: str, group: str, journal: str, use_s: float, timeout_s: float | None) -> None:
    """Append each used result to a file, until none arrives or the process is killed."""
    settings = Settings(sink=url)
    with Stream.open(settings, group=group, start="beginning", timeout_s=timeout_s) as stream:
        note_all((result.task_id for result in stream), Path(journal), use_s)


def note_all(task_ids: Iterable[str], journal: Path, use_s: float) -> None:
    file = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for task_id in task_ids:
        time.sleep(use_s)  # Stands for a training step.
        os.write(file, f"{task_id}\n".encode())
    os.close(file)
