"""The options ``--budget-usd`` and ``--budget-tokens``."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from agentpipe.core.budgets import Budget

if TYPE_CHECKING:
    from agentpipe.cli.options import ArgumentGroup


def add_budget(parser: ArgumentGroup, whose: str) -> None:
    """Add both options."""
    parser.add_argument(
        "--budget-usd", metavar="USD", type=_usd, help=f"cap on the total cost of {whose}"
    )
    parser.add_argument(
        "--budget-tokens",
        metavar="N",
        type=_tokens,
        help="cap on its input and output tokens together",
    )


def budget_of(args: argparse.Namespace) -> Budget:
    """The budget that the options set."""
    return Budget(args.budget_usd, args.budget_tokens)


def _usd(text: str) -> float:
    try:
        usd = float(text)
    except ValueError:
        usd = math.nan
    if not 0 < usd < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: expected USD, a number above 0")
    return usd


def _tokens(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 0 < len(text) < 16 or not int(text):  # noqa: PLR2004 - exact in a double
        raise argparse.ArgumentTypeError(f"{text!r}: expected tokens, from 1 to 10^15 - 1")
    return int(text)
