"""A DataLoader's worker process ends with its trainer, and so does its hold on the stream."""

from __future__ import annotations

import os
import threading
import time

from agentpipe.core.parent import Parent

LOOK_EVERY_S = 0.5


class TrainerWatch(threading.Thread):
    """Ends this process once the one that started it is gone.

    PyTorch's own watch looks only between items: a worker that waits for the next group would live
    on after a kill of its trainer, and hold records that the next start is waiting for.
    """

    _started_by: Parent | None = None
    _lock = threading.Lock()

    def __init__(self, trainer: Parent) -> None:
        super().__init__(name="agentpipe-trainer-watch", daemon=True)
        self._trainer = trainer

    @classmethod
    def begin(cls) -> None:
        """Watch from now on; once is enough. Of a worker that is a thread, no process ends."""
        trainer = Parent.of_this_process()
        with cls._lock:
            if trainer.is_python and cls._started_by != trainer:
                cls._started_by = trainer
                cls(trainer).start()

    def run(self) -> None:
        """Look until the process ends. What it had read was never committed: it is read again."""
        while not self._trainer.is_gone():
            time.sleep(LOOK_EVERY_S)
        os._exit(1)
