"""Ids related to a requested one: its last retry, or the id that was probably meant."""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING

from agentpipe.core.did_you_mean import nearest
from agentpipe.core.run_names import run_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentpipe.archive import Archive

# A hint is not worth more time than this.
MOST_LOOKED_AT, LOOK_S = 5_000, 0.3
_MOST_RETRIES = 100


def last_retry(archive: Archive, task_id: str) -> str | None:
    """The id of the task's last retry that has a Result; None if there is none."""
    last = None
    for number in range(1, _MOST_RETRIES):
        retried = f"{task_id}~r{number}"
        if archive.result(retried) is None:
            break
        last = retried
    return last


def likely_id(archive: Archive, task_id: str) -> str:
    """The id that was probably meant; empty if none is similar."""
    first_sample = f"{task_id}/0"
    if archive.result(first_sample) is not None:
        return first_sample
    return nearest(task_id, islice(_ids(archive, task_id), MOST_LOOKED_AT))


def _ids(archive: Archive, task_id: str) -> Iterator[str]:
    """Ids of its run first, then all others, until ``LOOK_S`` has passed."""
    end = time.monotonic() + LOOK_S
    for run in dict.fromkeys((run_of(task_id), None)):
        for result in archive.results(run=run):
            yield result.task_id
            if time.monotonic() > end:
                return
