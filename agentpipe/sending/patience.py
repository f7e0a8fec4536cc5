"""Patience: how senders and trainers wait for room, and for a store that does not answer."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, TypeVar

from agentpipe.core.backoff import delay_s
from agentpipe.errors import ConfigError, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable

FULL_PAUSE_S = 0.25
OUTAGE_PAUSE_S, MAX_OUTAGE_PAUSE_S = 0.1, 2.0

T = TypeVar("T")

log = logging.getLogger(__name__)


def is_patient(on_full: str) -> bool:
    """Whether a sender waits for room, and for a store that does not answer.

    Raises:
        ConfigError: ``on_full`` is neither ``refuse`` nor ``wait``.
    """
    if on_full not in ("refuse", "wait"):
        raise ConfigError(f"on_full: expected 'refuse' or 'wait', not {on_full!r:.40}")
    return on_full == "wait"


def tried(ask: Callable[[], T]) -> T | Unreachable:
    """The store's answer, or the error if it does not answer."""
    try:
        return ask()
    except Unreachable as error:
        return error


def until_it_answers(
    ask: Callable[[], T], found: T | Unreachable | None = None, *, waits: str = "sending"
) -> T:
    """Call until the store answers; the call must be safe to repeat, for example with the same ids.

    Args:
        ask: The call.
        found: The result of an earlier ``tried``, if there was one.
        waits: What waits for the store, for the log.
    """
    tries = 0
    found = tried(ask) if found is None else found
    while isinstance(found, Unreachable):
        if not tries:
            log.warning("the broker %s, %s waits for it: %s", found.ailment, waits, found)
        tries += 1
        time.sleep(delay_s(tries, OUTAGE_PAUSE_S, MAX_OUTAGE_PAUSE_S))
        found = tried(ask)
    if tries:
        log.warning("the broker answers again, after %d tries", tries)
    return found
