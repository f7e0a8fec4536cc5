"""A server's processes: starts them, finds them again in a later command, ends them."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Mapping, Sequence

_PAUSE_S = 0.01
# A parent-death signal fires when the thread that started the child ends. So one thread, which
# lives until this process ends, starts all children.
_starter = ThreadPoolExecutor(1, "server-starter")


@dataclass(frozen=True, slots=True)
class Command:
    """A program to start; it gets ``orphan_signal`` when this process dies."""

    argv: Sequence[str]
    environ: Mapping[str, str]
    orphan_signal: str = "KILL"


class Process:
    """A process that leads its own group; started here or by an earlier command."""

    def __init__(self, pid: int, birth: str, child: subprocess.Popen[bytes] | None = None) -> None:
        self.pid, self.birth, self._child = pid, birth, child

    @classmethod
    def start(cls, command: Command, folder: Path, log: Path, *, detached: bool) -> Process:
        """Start ``command`` in ``folder``; unless ``detached``, it ends when this process does."""
        argv = list(command.argv) if detached else [*_leash(command.orphan_signal), *command.argv]
        with log.open("ab") as output:
            child = _starter.submit(
                subprocess.Popen,
                argv,
                cwd=folder,
                env=dict(command.environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ).result()
        return cls(child.pid, birth_of(child.pid), child)

    @property
    def alive(self) -> bool:
        """Whether it runs; a later process with the same pid does not count."""
        if self._child:
            return self._child.poll() is None
        return bool(self.birth) and birth_of(self.pid) == self.birth

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its group, if it lives."""
        if self.alive:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def ends_within(self, timeout_s: float) -> bool:
        """Wait for its end; return whether it ended in time."""
        return holds_within(lambda: not self.alive, timeout_s)


def holds_within(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Whether ``condition`` comes true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE_S)
    return True


def birth_of(pid: int) -> str:
    """A process's start time as a string to compare; empty for no process or a zombie."""
    if not Path("/proc/self/stat").exists():
        return _birth_by_ps(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    state, *others = stat.rpartition(")")[2].split()
    return "" if state in "ZX" and not _has_threads(pid) else others[18]


def _has_threads(pid: int) -> bool:
    """Whether threads of a killed process are still ending: they hold its ports and files."""
    try:
        return len(list(Path(f"/proc/{pid}/task").iterdir())) > 1
    except OSError:
        return False


def _birth_by_ps(pid: int) -> str:
    argv = ["ps", "-o", "lstart=", "-p", str(pid)]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()


@functools.cache
def _leash(orphan_signal: str) -> tuple[str, ...]:
    """The prefix that ends a child with this process; empty if the system has none."""
    setpriv = shutil.which("setpriv")
    if not setpriv:
        return ()
    prefix = (setpriv, "--pdeathsig", orphan_signal)
    trial = subprocess.run([*prefix, "true"], capture_output=True, check=False)
    return () if trial.returncode else prefix
