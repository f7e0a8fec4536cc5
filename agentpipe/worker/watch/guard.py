"""Guard: a process beside a worker without supervisor, which ends the worker when it freezes.

It knows only the worker's last word, and ends with the worker.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING

from agentpipe.worker.watch.freeze_watch import (
    LOOK_EVERY_S,
    FreezeWatch,
    freeze_limit_s,
    is_stopped,
)
from agentpipe.worker.watch.handover import receive
from agentpipe.worker.watch.last_word import LastWordFile

if TYPE_CHECKING:
    from agentpipe.settings import Settings

# How much longer than a lease to try to store what a dead worker's tasks count. The process is
# alone by then: it must not stay for ever where the broker does not come back.
PATIENCE_S = 600.0


def main(path: str) -> None:
    """Watch the parent process until it ends."""
    receive()
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(kind, signal.SIG_IGN)  # A worker in its grace is still watched.
    worker = os.getppid()
    try:
        word = LastWordFile.open(path)
    except OSError:  # The worker has already ended.
        return
    _watch(worker, word)


def _watch(worker: int, word: LastWordFile) -> None:
    from agentpipe.settings import Settings

    settings = Settings.from_env(os.environ)
    watch = FreezeWatch(freeze_limit_s(settings.lease_s), lambda: is_stopped(worker))
    while os.getppid() == worker and word.pid == worker:
        time.sleep(LOOK_EVERY_S)
        if watch.is_frozen(word.beats) and _end_frozen(word, settings):
            return
    watch.is_frozen(word.beats)  # This process can have been stopped with the worker.
    said = word.read()
    if said.claims or said.ahead:
        _bury_dead(word, settings, watch)


# Imported late: few guards ever need them.


def _end_frozen(word: LastWordFile, settings: Settings) -> bool:
    from agentpipe.worker.watch.post_mortem import end_frozen

    _log(settings)
    verdict = end_frozen(word, settings)
    if verdict is not None:
        verdict.store(PATIENCE_S)
    return verdict is not None


def _bury_dead(word: LastWordFile, settings: Settings, watch: FreezeWatch) -> None:
    from agentpipe.worker.watch.post_mortem import of_dead

    _log(settings)
    if verdict := of_dead(word.read(), settings, watch):
        verdict.store(PATIENCE_S)


def _log(settings: Settings) -> None:
    from agentpipe.core import logs

    logs.configure(settings.log_level, settings.log_format)


if __name__ == "__main__":
    main(sys.argv[1])
