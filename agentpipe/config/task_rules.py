"""TaskRules: what a collection offers to its tasks; a task chooses among that and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class TaskRules:
    """The rules of one collection.

    Attributes:
        search: Folders of the functions that evaluators name; none where they cannot be looked at.
    """

    search: tuple[Path, ...] = ()


# Of tasks whose collection is not known.
NO_RULES = TaskRules()
