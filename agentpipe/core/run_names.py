"""Names of runs, and the ids of their tasks: each begins with its run's name and a slash."""

from __future__ import annotations

import re
from typing import Any

# Neither a path, nor an option, nor anything that a shell or a URL would read in another way.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
RUN_NAME = "a run's name: 1 to 64 of A-Z a-z 0-9 . _ -, a letter or digit first"


def is_run_name(value: Any) -> bool:
    """Whether ``value`` may name a run."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def prefix_of(run: str) -> str:
    """What the ids of all tasks of the run begin with, and no other run's."""
    return f"{run}/"


def is_of_run(task_id: str, run: str | None) -> bool:
    """Whether the id is one of the run's; every id is where no run is asked for."""
    return run is None or task_id.startswith(prefix_of(run))


def run_of(task_id: str) -> str | None:
    """The run that an id names; None if it names none."""
    name, slash, _ = task_id.partition("/")
    return name if slash and is_run_name(name) else None


def without_run(name: str, run: str | None) -> str:
    """A task's or a group's name as it is in every run; ``run`` is the one that it is of."""
    return name.removeprefix(prefix_of(run)) if run else name


def bounds_of(run: str) -> tuple[str, str]:
    """All ids of the run are at least the first, and less than the second, as strings sort."""
    prefix = prefix_of(run)
    return prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1)
