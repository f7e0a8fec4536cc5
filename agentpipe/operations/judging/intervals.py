"""Confidence intervals of 95 %."""

from __future__ import annotations

import math
from functools import cache

CONFIDENCE = 0.95
# The 0.975 quantile of the standard normal distribution.
Z = 1.959963984540054
_MAX_STEPS, _EXACT = 300, 1e-15
# Above this many degrees of freedom, t differs from the normal distribution by less than 1e-5.
_MANY = 100_000
# Mathematically equal numbers can differ in their last bits.
ROUNDING = 1e-12

Interval = tuple[float, float]


def standard_error(variance: float) -> float:
    """The square root; exactly 0 if all values are equal but for rounding."""
    error = math.sqrt(variance)
    return error if error > ROUNDING else 0.0


def t_interval(mean: float, standard_error: float, degrees: int) -> Interval:
    """Interval of a mean by Student's t distribution, cut to [0, 1], the range of rewards."""
    half = t_quantile(degrees) * standard_error
    return max(0.0, mean - half), min(1.0, mean + half)


def wilson_interval(share: float, number: float) -> Interval:
    """Wilson's score interval (1927) of a proportion; also valid near 0 and 1.

    Contains ``share`` despite rounding: it ends at 0 or 1 if none, or all, passed.
    """
    middle = share + Z * Z / (2 * number)
    half = Z * math.sqrt(share * (1 - share) / number + Z * Z / (4 * number * number))
    scale = 1 + Z * Z / number
    low, high = (middle - half) / scale, (middle + half) / scale
    return min(share, max(0.0, low)), max(share, min(1.0, high))


def effective_number(share: float, standard_error: float, number: int, groups: int) -> float:
    """The number of independent results that are worth ``number`` results in ``groups`` groups.

    By Korn and Graubard (1998): from the variance between groups, corrected for few groups. If all
    passed or all failed, that variance is unknown, and each group counts as one result.
    """
    if groups == number:
        return number
    if share in (0, 1):
        return groups
    if not standard_error:
        return number
    few = (Z / t_quantile(groups - 1)) ** 2
    return min(number, few * share * (1 - share) / standard_error**2)


@cache
def t_quantile(degrees: int) -> float:
    """The 0.975 quantile of Student's t distribution, found by bisection."""
    if degrees > _MANY:
        return Z
    low, high = 0.0, 13.0  # 12.7 is the largest, for one degree.
    for _ in range(60):
        middle = (low + high) / 2
        if _two_tails(middle, degrees) > 1 - CONFIDENCE:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _two_tails(t: float, degrees: int) -> float:
    """P(|T| > t): the regularized incomplete beta function at n / (n + t^2), with n/2 and 1/2."""
    a, b, x = degrees / 2, 0.5, degrees / (degrees + t * t)
    if x >= 1:
        return 1.0
    log_front = a * math.log(x) + b * math.log1p(-x)
    front = math.exp(log_front + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b))
    if x < (a + 1) / (a + b + 2):
        return front * _beta_fraction(a, b, x) / a
    return 1 - front * _beta_fraction(b, a, 1 - x) / b


def _beta_fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function (NIST DLMF 8.17.22), by Lentz."""
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _MAX_STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for step in (even, odd):
            d, c = 1 / (1 + step * d), 1 + step / c
            value *= c * d
        if abs(c * d - 1) < _EXACT:
            break
    return value
