"""Restarts: a new ``agentpipe work`` each time the files change."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.core.process_privacy import harden, scrub
from agentpipe.worker.fleet.child_environ import child_environ
from agentpipe.worker.fleet.file_watch import FileWatch
from agentpipe.worker.fleet.supervisor import CONFIG_ERROR, INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from agentpipe.settings import Settings

LOOK_EVERY_S = 0.25
# Most changed files that a log line names.
MOST_NAMED = 3

_AGENTPIPE = (sys.executable, "-m", "agentpipe")

log = logging.getLogger(__name__)


def serve_watched(path: Path, settings: Settings, options: Sequence[str]) -> int:
    """Run workers until a signal, and replace them after each change of the files.

    The earlier workers finish their runs within the grace, or release them uncounted, while the new
    ones already claim. Files with a mistake are reported, and the workers stay. If this process is
    killed, its workers end as after SIGTERM.

    Returns the exit code of the last workers, also if they end by themselves.
    """
    harden()
    scrub()
    restarts = _Restarts(path, settings, options)
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, restarts.pass_on)
    return restarts.run()


class _Restarts:
    def __init__(self, path: Path, settings: Settings, options: Sequence[str]) -> None:
        self._environ = child_environ(settings, os.environ)
        self._environ["AGENT_COLLECTION_CONFIG_FILE"] = str(path.absolute())
        self._options, self._watch = options, FileWatch(path)
        self._work: subprocess.Popen[bytes] | None = None
        self._earlier: list[subprocess.Popen[bytes]] = []
        self._signals: list[int] = []

    def run(self) -> int:
        """Run until a signal, or until the workers end by themselves."""
        self._start()
        while True:
            code = self._code()
            if code is not None and (self._signals or code != CONFIG_ERROR):
                return code
            if not self._signals and (changed := self._watch.changed()):
                self._restart(changed)
            time.sleep(LOOK_EVERY_S)

    def pass_on(self, kind: int, _frame: FrameType | None) -> None:
        """Pass a signal on; from the second one also to earlier workers, which had a first one."""
        self._signals.append(kind)
        earlier = self._earlier if len(self._signals) > 1 else ()
        for work in filter(None, (self._work, *earlier)):
            if work.poll() is None:
                work.send_signal(kind)

    def _code(self) -> int | None:
        """The exit code; None while any workers run."""
        self._earlier = [work for work in self._earlier if work.poll() is None]
        if self._work is None or self._earlier:
            return None
        code = self._work.poll()
        if code is not None and code < 0 and self._signals:  # It had no handler yet.
            return INTERRUPTED if self._signals[0] == signal.SIGINT else 0
        return code

    def _restart(self, changed: list[str]) -> None:
        named = ", ".join(map(_shown, changed[:MOST_NAMED]))
        more = f" and {len(changed) - MOST_NAMED} more" if len(changed) > MOST_NAMED else ""
        if mistakes := self._mistakes():
            log.error("%s%s changed: the workers stay as they are:\n%s", named, more, mistakes)
            return
        log.info("%s%s changed: the workers are replaced", named, more)
        if self._work is not None and self._work.poll() is None:
            self._work.send_signal(signal.SIGTERM)
            self._earlier.append(self._work)
        self._start()

    def _mistakes(self) -> str:
        """Mistakes in the files, found by a process that has not loaded them before."""
        checked = subprocess.run(  # noqa: S603 - our own program
            [*_AGENTPIPE, "check"], env=self._environ, capture_output=True, text=True, check=False
        )
        said = (checked.stderr + checked.stdout).strip()
        return said if checked.returncode else ""

    def _start(self) -> None:
        """Start workers in their own session, so Ctrl-C reaches them once, through here."""
        if self._signals:
            return
        self._work = subprocess.Popen(  # noqa: S603 - our own program
            [*_AGENTPIPE, "work", *self._options],
            env=self._environ,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def _shown(file: str) -> str:
    here = Path.cwd()
    path = Path(file)
    return str(path.relative_to(here)) if path.is_relative_to(here) else file
