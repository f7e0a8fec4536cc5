"""Ends a DataLoader's worker process, and its hold on the stream, when its trainer dies."""

from __future__ import annotations

import os
import threading
import time

from agentpipe.core.parent import Parent

LOOK_EVERY_S = 0.5


class TrainerWatch(threading.Thread):
    """Ends this process once its parent is gone.

    PyTorch's own watchdog checks only between items: a worker waiting for the next group would
    outlive a killed trainer and hold records that the next start needs.
    """

    _started_by: Parent | None = None
    _lock = threading.Lock()

    def __init__(self, trainer: Parent) -> None:
        super().__init__(name="agentpipe-trainer-watch", daemon=True)
        self._trainer = trainer

    @classmethod
    def begin(cls) -> None:
        """Start watching once, if ``multiprocessing`` started this process; else do nothing."""
        trainer = Parent.of_this_process()
        with cls._lock:
            if trainer.is_python and cls._started_by != trainer:
                cls._started_by = trainer
                cls(trainer).start()

    def run(self) -> None:
        """Poll until the parent is gone. Uncommitted records are read again by the next start."""
        while not self._trainer.is_gone():
            time.sleep(LOOK_EVERY_S)
        os._exit(1)
