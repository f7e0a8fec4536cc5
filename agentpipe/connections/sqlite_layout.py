"""Layout: the tables of an SQLite file, and how an earlier file is brought up to date."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Layout:
    """The tables of a database.

    Attributes:
        version: Kept in the file; it rises with each change of the tables.
        table: One of its tables, which no other layout has.
        schema: Makes them in an empty file.
        upgrades: The statements that make layout ``n + 1`` of layout ``n``, by ``n``. Processes of
            the earlier version may have the file open meanwhile: add columns with a default, and
            tables; never rename or remove.
    """

    version: int
    table: str
    schema: str
    upgrades: Mapping[int, str] = field(default_factory=dict)

    def statements_from(self, found: int) -> list[str] | None:
        """What brings a file of layout ``found`` here; None where that is not possible."""
        if found == 0:
            return self.schema.split(";\n")
        steps = [self.upgrades.get(step) for step in range(found, self.version)]
        if found > self.version or None in steps:
            return None
        return [statement for step in steps if step for statement in step.split(";\n")]
