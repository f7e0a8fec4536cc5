"""Holds: which trainer has a loop's name. What another still sends under it is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from agentpipe.core.masking import shorten

# After so long without a word of its trainer another may take a loop.
LEASE_S = 15.0


@dataclass(frozen=True, slots=True)
class LoopHold:
    """One trainer's hold on a loop.

    Attributes:
        name: Of the loop.
        token: Of this trainer; no other has it.
    """

    name: str
    token: str


@dataclass(frozen=True, slots=True)
class LoopState:
    """Who has a loop.

    Attributes:
        token: That trainer's.
        silent_s: For how long nothing was heard of it.
        report: What it has said of itself: a JSON object.
    """

    name: str
    token: str
    silent_s: float
    report: bytes = b""

    @property
    def said(self) -> dict[str, Any]:
        """The report; empty where it is none."""
        try:
            found = orjson.loads(self.report)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def holder(self) -> str:
        """Where that trainer runs, for people."""
        said = self.said
        pid, host = (shorten(str(said.get(name)), 80) for name in ("pid", "host"))
        return f"process {pid} on {host!r}"


def taken_text(name: str, state: LoopState | None) -> str:
    """What is wrong where a trainer does not have its loop, and what to do.

    Without a state no trainer has it, so far as the broker knows.
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
