"""Holds: which trainer owns a loop's name. Requests of any other trainer are refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from agentpipe.core.masking import shorten

# After this long without a sign of its trainer, another trainer can take the loop.
LEASE_S = 15.0


@dataclass(frozen=True, slots=True)
class LoopHold:
    """One trainer's hold on a loop.

    Attributes:
        name: The loop's name.
        token: Unique to this trainer.
    """

    name: str
    token: str


@dataclass(frozen=True, slots=True)
class LoopState:
    """Which trainer holds a loop.

    Attributes:
        token: That trainer's token.
        silent_s: Seconds since that trainer was last heard from.
        report: The trainer's own description of itself: a JSON object.
    """

    name: str
    token: str
    silent_s: float
    report: bytes = b""

    @property
    def said(self) -> dict[str, Any]:
        """The parsed report; empty if it is not an object."""
        try:
            found = orjson.loads(self.report)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def holder(self) -> str:
        """Where that trainer runs, for display."""
        said = self.said
        pid, host = (shorten(str(said.get(name)), 80) for name in ("pid", "host"))
        return f"process {pid} on {host!r}"


def taken_text(name: str, state: LoopState | None) -> str:
    """Explain that a trainer does not hold its loop, and what to do.

    Without a state, the broker knows of no trainer that holds the loop.
    """
    if state is None:
        return (
            f"loop {name!r}: the broker does not know that this trainer has it. Another trainer "
            "had it meanwhile and has ended, whose last state counts; or the broker has lost its "
            "data (`agentpipe status` shows what it has accepted), and the groups that were out "
            "with them: begin again from your weights, with another `name`. This one sends and "
            "counts nothing more"
        )
    return (
        f"loop {name!r}: this trainer has lost it, or never had it; it belongs to {state.holder}, "
        f"heard {state.silent_s:.0f} s ago. One trainer has a name at a time, and this one sends "
        "and counts nothing more under it. Stop that one, or this, or open another experiment with "
        "another `name`"
    )
