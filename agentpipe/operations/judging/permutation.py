"""Distribution-free tests of paired differences: sign flips and McNemar's."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Up to this many differing tasks, all sign flips are enumerated.
MAX_ENUMERATED = 16
DRAWS = 10_000
MAX_INTEGERS = 500
SEED = 20_240_229
# Sums of floats that are mathematically equal can differ in their last bits.
_ROUNDING = 1e-9
# Signs are drawn a byte at a time, with a table of the 256 possible sums per byte.
_BITS = 8


def sign_flip(differences: Sequence[float]) -> tuple[float, bool]:
    """The two-sided p-value of the sign-flip test on the mean, and whether it is exact.

    If neither run is better, each difference has a random sign (Fisher 1935). With more than
    ``MAX_ENUMERATED`` differing tasks, ``DRAWS`` flips are drawn from a fixed seed, and the
    observed signs count as one more draw (Phipson and Smyth 2010).
    """
    moved = [it for it in differences if it]
    observed = abs(math.fsum(moved)) * (1 - _ROUNDING)
    if len(moved) <= MAX_ENUMERATED:
        sums = _all_sums(moved)
        return sum(abs(it) >= observed for it in sums) / len(sums), True
    hits = sum(abs(it) >= observed for it in _drawn_sums(moved))
    return (hits + 1) / (DRAWS + 1), False


def _all_sums(values: Sequence[float]) -> list[float]:
    """The sums for all choices of signs."""
    sums = [0.0]
    for value in values:
        sums = [each + signed for each in sums for signed in (value, -value)]
    return sums


def _drawn_sums(values: Sequence[float]) -> Iterator[float]:
    tables = [_all_sums(values[at : at + _BITS]) for at in range(0, len(values), _BITS)]
    # The last table is shorter: the high bits of its byte change nothing.
    sizes = [len(table) - 1 for table in tables]
    coins = random.Random(SEED)  # noqa: S311 - statistics, not a secret
    whole = all(size == (1 << _BITS) - 1 for size in sizes)
    for _ in range(DRAWS):
        signs = coins.randbytes(len(tables))
        if not whole:
            signs = signs[:-1] + bytes([signs[-1] & sizes[-1]])
        yield sum(map(list.__getitem__, tables, signs))


def mcnemar(only_a: int, only_b: int) -> float:
    """The exact two-sided test of pairs that pass in only one run (McNemar 1947, binomial)."""
    number = only_a + only_b
    chances = (_of_a_coin(k, number) for k in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * math.fsum(chances))


def _of_a_coin(heads: int, number: int) -> float:
    """Probability of exactly this many heads; uses logarithms if the integers get long."""
    if number <= MAX_INTEGERS:
        return math.comb(number, heads) / (1 << number)
    ways = math.lgamma(number + 1) - math.lgamma(heads + 1) - math.lgamma(number - heads + 1)
    return math.exp(ways - number * math.log(2))
