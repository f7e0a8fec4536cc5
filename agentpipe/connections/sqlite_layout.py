"""Layout: the tables of an SQLite file, and how an older file is upgraded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Layout:
    """The tables of a database.

    Attributes:
        version: Stored in the file; increases with each change of the tables.
        table: One of its tables that no other layout has.
        schema: Creates the tables in an empty file.
        upgrades: The statements that turn layout ``n`` into ``n + 1``, by ``n``. Processes of the
            older version may have the file open during an upgrade: add tables, or columns with a
            default; never rename or remove.
    """

    version: int
    table: str
    schema: str
    upgrades: Mapping[int, str] = field(default_factory=dict)

    def statements_from(self, found: int) -> list[str] | None:
        """The statements that upgrade a file from layout ``found``; None if that is impossible."""
        if found == 0:
            return self.schema.split(";\n")
        steps = [self.upgrades.get(step) for step in range(found, self.version)]
        if found > self.version or None in steps:
            return None
        return [statement for step in steps if step for statement in step.split(";\n")]
