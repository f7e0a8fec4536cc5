"""Shard: the part of the groups, or of the prompts, that one of several readers has."""

from __future__ import annotations

from typing import NamedTuple
from zlib import crc32

from agentpipe.errors import ConfigError


class Shard(NamedTuple):
    """One of several readers.

    Attributes:
        number: From 0.
    """

    number: int
    readers: int

    @classmethod
    def of(cls, given: tuple[int, int]) -> Shard:
        """Check a reader's number and the number of readers.

        Raises:
            ConfigError: The number is out of range.
        """
        number, readers = given
        if not 0 <= number < readers:
            raise ConfigError(f"shard: expected (number, readers), got {given}")
        return cls(number, readers)

    def has(self, name: str) -> bool:
        """Whether this reader reads what has this id; a hash gives each id to one reader."""
        return crc32(name.encode()) % self.readers == self.number

    def named(self, group: str) -> str:
        """This reader's own reading group: each reader has its own position in the stream."""
        return group if self.readers == 1 else f"{group}-{self}"

    def __str__(self) -> str:
        """The shard as a part of names that are stored."""
        return f"{self.number}-of-{self.readers}"


# A single reader has everything.
WHOLE = Shard(0, 1)
