"""Layout: the tables of an SQLite file, and how an older file is upgraded."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agentpipe.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

_TABLES = re.compile(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)")


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

    def refuse_damaged(self, path: Path, found: int, tables: Collection[str]) -> None:
        """Tell a file that has lost its main table from one of another program.

        Raises:
            Unreachable: All its other tables are there: waiting for its repair loses nothing.
        """
        others = frozenset(_TABLES.findall(self.schema)) - {self.table}
        is_ours = found == self.version and others and others <= {*tables}
        if is_ours and self.table not in tables:
            raise Unreachable(f"{path} has lost its table {self.table}: restore the file")

    def statements_from(self, found: int) -> list[str] | None:
        """The statements that upgrade a file from layout ``found``; None if that is impossible."""
        if found == 0:
            return self.schema.split(";\n")
        steps = [self.upgrades.get(step) for step in range(found, self.version)]
        if found > self.version or None in steps:
            return None
        return [statement for step in steps if step for statement in step.split(";\n")]
