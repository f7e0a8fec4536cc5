"""``agentpipe resume``: have tasks of paused agents and collections taken again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.cli.pause import add, change

if TYPE_CHECKING:
    import argparse

__all__ = ["add", "run"]


def run(args: argparse.Namespace) -> int:
    """Resume."""
    return change(args, paused=False)
