"""Patience: how senders wait for room, and for a store that does not answer."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from agentpipe.core.backoff import delay_s
from agentpipe.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.brokers.records import Admission

FULL_PAUSE_S = 0.25
OUTAGE_PAUSE_S, MAX_OUTAGE_PAUSE_S = 0.1, 2.0

log = logging.getLogger(__name__)


def tried(offer: Callable[[], Admission]) -> Admission | Unreachable:
    """What the store says, or why it says nothing."""
    try:
        return offer()
    except Unreachable as error:
        return error


def until_it_answers(
    offer: Callable[[], Admission], found: Admission | Unreachable | None = None
) -> Admission:
    """Offer until the store answers; with the same ids, so that repeating is safe.

    ``found`` is what was ``tried`` already, if anything was.
    """
    tries = 0
    found = tried(offer) if found is None else found
    while isinstance(found, Unreachable):
        if not tries:
            log.warning("the broker %s, sending waits for it: %s", found.ailment, found)
        tries += 1
        time.sleep(delay_s(tries, OUTAGE_PAUSE_S, MAX_OUTAGE_PAUSE_S))
        found = tried(offer)
    if tries:
        log.warning("the broker answers again, after %d tries", tries)
    return found
