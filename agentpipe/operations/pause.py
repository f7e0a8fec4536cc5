"""Pause: keep workers away from agents and collections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentpipe.brokers.capabilities import PausesQueues, require
from agentpipe.operations.names import refuse_unknown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.brokers.base import Store


@dataclass(frozen=True, slots=True)
class Paused:
    """What was paused or resumed.

    Attributes:
        agents: All that belong to the targets, by queue.
        still_paused: Of these, which are paused now.
    """

    agents: tuple[str, ...]
    still_paused: tuple[str, ...]


def pause(store: Store, targets: Sequence[str], *, paused: bool) -> Paused:
    """Pause or resume agents and whole collections.

    Raises:
        ConfigError: A name is unknown, or this broker cannot pause.
    """
    pauses = require(store, PausesQueues, "pause agents")
    depths = store.stats().queues
    collections = {depth.collection for depth in depths if depth.collection}
    queues = {depth.queue for depth in depths}
    refuse_unknown("collection or agent", targets, collections | queues)
    whole = [target for target in targets if target in collections]
    single = [target for target in targets if target in queues and target not in collections]
    pauses.pause(queues=single, collections=whole, paused=paused)
    now = [it for it in store.stats().queues if it.queue in single or it.collection in whole]
    left = tuple(depth.queue for depth in now if depth.paused)
    return Paused(tuple(depth.queue for depth in now), left)
