"""``agentpipe resume``: resume paused agents and collections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.cli.pause import add, change

if TYPE_CHECKING:
    import argparse

__all__ = ["add", "run"]


def run(args: argparse.Namespace) -> int:
    """Resume; an agent stays paused while its collection is."""
    return change(args, paused=False)
