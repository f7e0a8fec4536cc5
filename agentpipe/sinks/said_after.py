"""Logs once that an operation takes long, so that a terminal is not silent."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SAID_AFTER_S = 5.0

log = logging.getLogger(__name__)


@contextmanager
def said_after(sentence: str) -> Iterator[None]:
    """Warn with ``sentence`` if the block takes longer than ``SAID_AFTER_S``."""
    timer = threading.Timer(SAID_AFTER_S, log.warning, (sentence,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
