"""The journal of a peer's tasks: when each was sent and when it ran.

Noting a task appends to a list; a thread writes the list to a file at intervals.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

WRITE_EVERY_S = 0.05

_noted: list[tuple[float, float]] = []
_writer: threading.Thread | None = None


def note(sent: float) -> None:
    global _writer  # noqa: PLW0603 - one per process, made after the fork
    _noted.append((sent, time.time()))
    if _writer is None:
        _writer = threading.Thread(target=_write, daemon=True)
        _writer.start()


def _write() -> None:
    with Path(os.environ["PEER_JOURNAL"], str(os.getpid())).open("a") as file:
        written = 0
        while True:
            time.sleep(WRITE_EVERY_S)
            lines = [f"{sent} {ran}\n" for sent, ran in _noted[written:]]
            file.writelines(lines)
            file.flush()
            written += len(lines)
