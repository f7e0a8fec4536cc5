"""Shard: the part of the groups, or of the prompts, that one of several readers has."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Shard(NamedTuple):
    """One of several readers.

    Attributes:
        number: From 0.
    """

    number: int
    readers: int

    @classmethod
    def of(cls, given: Any) -> Shard:
        """Check a reader's number and the number of readers.

        Raises:
            ConfigError: It is not such a pair, or the number is out of range.
        """
        try:
            number, readers = map(operator.index, given)
        except (TypeError, ValueError):
            number = readers = 0
        if not 0 <= number < readers:
            text = "(number, readers), the number from 0 and below readers"
            raise ConfigError(f"shard: expected {text}, got {given!r:.80}")
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


def rank_in(environ: Mapping[str, str]) -> int:
    """The number of this process among a training's, as launchers such as torchrun set it.

    Raises:
        ConfigError: ``RANK`` is not a number.
    """
    return _number_in(environ, "RANK", 0)


def shard_in(environ: Mapping[str, str]) -> Shard:
    """This process of a training, and how many there are, as launchers set both.

    Raises:
        ConfigError: ``RANK`` or ``WORLD_SIZE`` is not a number, or they do not fit.
    """
    rank, ranks = rank_in(environ), _number_in(environ, "WORLD_SIZE", 1)
    if rank >= ranks:
        given = environ.get("WORLD_SIZE") or "not set"
        raise ConfigError(
            f"RANK is {rank}, and WORLD_SIZE is {given}: it must be larger than RANK. Set both, as "
            "torchrun does, or neither"
        )
    return Shard(rank, ranks)


def _number_in(environ: Mapping[str, str], name: str, otherwise: int) -> int:
    given = environ.get(name) or str(otherwise)
    if not (given.isascii() and given.isdecimal()):
        raise ConfigError(f"{name}: expected an integer from 0, got {given!r:.40}")
    return int(given)


# A single reader has everything.
WHOLE = Shard(0, 1)
