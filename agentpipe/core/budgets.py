"""Budgets: how much the runs of a collection, or of a named run, can cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from agentpipe.core.text import dollars

if TYPE_CHECKING:
    from collections.abc import Mapping

Holder = Literal["collection", "run"]
HOLDERS: tuple[Holder, ...] = ("collection", "run")
# Tolerance for sums of floating-point costs; all stores use the same one.
EXACT_USD = 1e-9
_TOKENS = ("input_tokens", "output_tokens")


@dataclass(frozen=True, slots=True)
class Budget:
    """One cap per kind of cost; None for no cap."""

    usd: float | None = None
    tokens: int | None = None

    def __bool__(self) -> bool:
        return self.usd is not None or self.tokens is not None

    @property
    def needs_prices(self) -> bool:
        """Whether the budget has only a USD cap, so it works only if requests have prices."""
        return self.usd is not None and self.tokens is None

    def with_caps_of(self, given: Budget) -> Budget:
        """Return this budget, overridden by the caps that ``given`` sets."""
        usd = self.usd if given.usd is None else given.usd
        return Budget(usd, self.tokens if given.tokens is None else given.tokens)

    def __str__(self) -> str:
        return _amounts(self.usd, self.tokens)


NO_BUDGET = Budget()


@dataclass(frozen=True, slots=True)
class Spending:
    """A budget, and what was settled since it was set.

    Attributes:
        kind: The budget's owner: a ``collection`` or a ``run``.
    """

    kind: Holder
    name: str
    cap: Budget
    usd: float = 0.0
    tokens: int = 0

    @property
    def is_spent(self) -> bool:
        """Whether the cap is reached, so that nothing more is claimed."""
        of_usd = self.cap.usd is not None and self.usd + EXACT_USD >= self.cap.usd
        return of_usd or (self.cap.tokens is not None and self.tokens >= self.cap.tokens)

    @property
    def overshoot_usd(self) -> float:
        """How far the cap was exceeded by runs in progress when it was reached."""
        return 0.0 if self.cap.usd is None else max(0.0, round(self.usd - self.cap.usd, 9))

    @property
    def overshoot_tokens(self) -> int:
        """The same in tokens."""
        return 0 if self.cap.tokens is None else max(0, self.tokens - self.cap.tokens)

    @property
    def reason(self) -> str:
        """Why nothing more is claimed."""
        whose = "" if self.kind == "collection" else f" of run {self.name}"
        return f"the budget{whose} is spent: {self.used} of {self.cap}"

    @property
    def used(self) -> str:
        """What is spent, for each kind of cost that has a cap."""
        usd = None if self.cap.usd is None else self.usd
        return _amounts(usd, None if self.cap.tokens is None else self.tokens)

    @property
    def remedy(self) -> str:
        """The command that raises the cap and continues."""
        name = self.name if self.kind == "collection" else f"--run {self.name}"
        over_usd = self.cap.usd is not None and self.usd + EXACT_USD >= self.cap.usd
        option = "--budget-usd USD" if over_usd else "--budget-tokens N"
        return f"agentpipe resume {name} {option}"


def budget_line(spending: Spending) -> str:
    """Describe how much is spent; once the cap is reached, also the overshoot and the remedy."""
    if not spending.is_spent:
        return f"{spending.used} of its budget of {spending.cap} spent"
    over = _amounts(spending.overshoot_usd or None, spending.overshoot_tokens or None)
    overshoot = f", {over} of it by what ran when the cap was reached" if over else ""
    return f"{spending.reason}{overshoot}; {spending.remedy} allows more"


def tokens_in(usage: Mapping[str, Any]) -> int:
    """Return all tokens of a run's usage."""
    return int(sum(usage.get(name, 0) for name in _TOKENS))


def _amounts(usd: float | None, tokens: int | None) -> str:
    parts = [] if usd is None else [dollars(usd)]
    return " and ".join(parts + ([] if tokens is None else [f"{tokens:,} tokens"]))
