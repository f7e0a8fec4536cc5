"""``dramatiq`` as the supervisor starts it: a master that keeps its environment to itself."""

from __future__ import annotations

import multiprocessing
import sys

from agentpipe.worker.watch.handover import receive


def main() -> int:
    """Dramatiq's exit code; it takes the same arguments."""
    receive()
    from dramatiq.cli import main as dramatiq_main

    if sys.platform == "linux":
        # A fork server would be a program of its own, with the environment to be read there.
        multiprocessing.set_start_method("fork")
    return int(dramatiq_main() or 0)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    sys.exit(main())
