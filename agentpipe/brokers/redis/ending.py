"""Ending: removes a worker and requeues its claims, a part of many in each call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.brokers.redis.scripts import PORTION
from agentpipe.core.portions import portions_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.brokers.redis.script_runner import ScriptRunner


def end_worker(scripts: ScriptRunner, name: str, begun: Sequence[str] = ()) -> int:
    """End a worker; returns how many claims were requeued.

    The tasks in ``begun`` count a crash. If the caller is killed halfway, the others count one only
    if not all of ``begun`` were sent.
    """
    crashed = list(dict.fromkeys(begun))
    are_several = int(len(crashed) > 1)
    *parts, last = portions_of(crashed, PORTION) or [()]
    for part in parts:
        scripts.run("leave", name, 1, are_several, *part)
    held, more = scripts.run("leave", name, 0, are_several, *last)
    total = int(held)
    while more:
        held, more = scripts.run("leave", name, 0, 0)
        total += held
    return total
