"""Holds: which trainer has a loop's name. What another still sends under it is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from agentpipe.core.masking import shorten


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
    """What is wrong where another trainer has a loop, and what to do."""
    holder = "nobody now" if state is None else f"{state.holder}, heard {state.silent_s:.0f} s ago"
    return (
        f"loop {name!r}: this trainer has lost it, or never had it; it belongs to {holder}. One "
        "trainer has a name at a time, and this one sends and counts nothing more under it. Stop "
        "that one, or this, or open another experiment with another `name`"
    )
