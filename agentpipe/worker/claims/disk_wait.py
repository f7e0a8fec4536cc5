"""DiskWait: waits for the disk in its own thread while the next runs start."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from agentpipe.errors import AgentpipeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.brokers.base import Store
    from agentpipe.worker.contact import BrokerContact

# One sync covers everything that was settled since the last one.
PACE_S = 0.01
RETRY_S = 1.0

log = logging.getLogger(__name__)


class DiskWait:
    """Makes settled work durable, soon after ``notify``.

    Args:
        store: Where the work was settled.
        synced: Called once the work is on disk.
        contact: Notified whether the store answers.
    """

    def __init__(self, store: Store, synced: Callable[[], None], contact: BrokerContact) -> None:
        self._store, self._synced, self._contact = store, synced, contact
        self._settled = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="agentpipe-disk", daemon=True)

    def start(self) -> None:
        """Start the thread, if the store needs one to wait for its disk."""
        if self._store.waits_for_disk:
            self._thread.start()

    def notify(self) -> None:
        """Note that something was settled."""
        if self._store.waits_for_disk:
            self._settled.set()
        else:
            self._store.sync()
            self._synced()

    def stop(self) -> None:
        """End the thread; the caller syncs what is left."""
        self._stopping = True
        self._settled.set()

    def _run(self) -> None:
        while True:
            self._settled.wait()
            self._settled.clear()
            if self._stopping:
                return
            self._sync()

    def _sync(self) -> None:
        try:
            self._store.sync()
        except AgentpipeError as error:
            self._contact.failed("disk", error)
            self._try_again()
        except Exception:  # Without this thread, settled work would never become durable.
            log.exception("unexpected error while the store waits for the disk; continuing")
            self._try_again()
        else:
            self._contact.answered("disk")
            self._synced()
            time.sleep(PACE_S)

    def _try_again(self) -> None:
        self._settled.set()
        time.sleep(RETRY_S)
