"""Run names, and task ids of runs: each id starts with its run's name and a slash."""

from __future__ import annotations

import re
from typing import Any

# Cannot be a path or an option, and needs no escaping in a shell or a URL.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
RUN_NAME = "a run's name: 1 to 64 of A-Z a-z 0-9 . _ -, a letter or digit first"


def is_run_name(value: Any) -> bool:
    """Whether ``value`` is a valid run name."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def prefix_of(run: str) -> str:
    """Return the prefix of all task ids of this run; no other run's ids have it."""
    return f"{run}/"


def is_of_run(task_id: str, run: str | None) -> bool:
    """Whether the id belongs to the run; always true if ``run`` is None."""
    return run is None or task_id.startswith(prefix_of(run))


def run_of(task_id: str) -> str | None:
    """Return the run named in an id; None if there is none."""
    name, slash, _ = task_id.partition("/")
    return name if slash and is_run_name(name) else None


def without_run(name: str, run: str | None) -> str:
    """Return a task's or group's name without the prefix of its run."""
    return name.removeprefix(prefix_of(run)) if run else name


def bounds_of(run: str) -> tuple[str, str]:
    """Return the range of the run's ids in string order: lower bound inclusive, upper exclusive."""
    prefix = prefix_of(run)
    return prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1)
