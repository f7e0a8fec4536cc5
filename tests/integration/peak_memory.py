"""Measures an llm agent's answer to one question and its peak memory, in a separate process.

``python -m tests.integration.peak_memory CONFIG`` prints the answer and the growth of the peak.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentpipe.core.failures import is_infra
from tests.integration import llm_bench

LIMIT_S, RUN_LIMIT_S = 300, 200


@dataclass(frozen=True)
class End:
    """The end of a run.

    Attributes:
        grown_mib: How much the run raised the process's peak resident memory.
    """

    text: str
    infra: bool
    grown_mib: int


def ask(url: str, **config: Any) -> End:
    """Ask one question in a separate process."""
    argv = [sys.executable, "-m", __name__, json.dumps({"url": url, **config})]
    run = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert run.returncode == 0, run.stderr[-2_000:]
    return End(**json.loads(run.stdout))


def _peak_mib() -> int:
    """The peak since ``exec``; ``ru_maxrss`` would include the parent process's peak."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return int(status.read_text().partition("VmHWM:")[2].split()[0]) // 1024


def _main() -> None:
    llm_bench.PATIENCE_S = RUN_LIMIT_S
    config = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        bench = llm_bench.Bench(Path(folder))
        engine = bench.engine(**config)
        before = _peak_mib()
        (end,) = bench.ask(engine, "?")
    infra = isinstance(end, Exception) and is_infra(end)
    grown = _peak_mib() - before
    sys.stdout.write(json.dumps({"text": str(end)[:2_000], "infra": infra, "grown_mib": grown}))


if __name__ == "__main__":
    _main()
