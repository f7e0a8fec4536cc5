"""Adds a task's trainer loop to its explanation. Pure, like explanations."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.core.text import duration

if TYPE_CHECKING:
    from agentpipe.operations.explain.reason import Explanation
    from agentpipe.operations.loops import LoopSeen

_START = "start the trainer again with the last state that it saved: it reads what ends meanwhile"


def with_loop(found: Explanation, loop: LoopSeen | None, run: str) -> Explanation:
    """The explanation, extended by the loop that sent the task.

    Args:
        found: The explanation without the loop.
        loop: As reported by its trainer; None if no trainer has the loop.
        run: The run of the loop that sent the task; empty if no loop sent it.
    """
    details = {**found.details, "loop": loop and loop.to_dict()}
    if loop is None and not run:
        return replace(found, details=details)
    sentence = f"{found.sentence}; {_said(loop, run)}"
    what = found.next if loop and loop.state != "gone" else f"{found.next}; {_START}"
    return replace(found, sentence=sentence, next=what, details=details)


def _said(loop: LoopSeen | None, run: str) -> str:
    if loop is None:
        return f"no trainer has the loop of run {run} now"
    if loop.state == "gone":
        heard = f"heard {duration(loop.silent_s)} ago"
        return f"the trainer of its loop {loop.name} is gone: {loop.holder}, {heard}"
    step = "" if loop.step is None else f", at step {loop.step:,}"
    return f"its loop {loop.name} {loop.activity}{step}: {loop.holder}"
