"""A vLLM that serves a small real model, and can load other weights while it runs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from tests.support import wait_until

MODEL = Path(sys.prefix) / "smollm2"
# No requests to a hub. One thread: several would wait for each other in each step, which takes
# ten times as long when other processes use the cores.
ENVIRON = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "OMP_NUM_THREADS": "1",
}
# 32 bits, like the torch model. A step fits all prompts that arrive at once: on a CPU, vLLM 0.32
# crashes when it splits the prompt of a request with a seed.
OPTIONS = (
    "--served-model-name small --enforce-eager --max-model-len 2048 --max-num-seqs 64 "
    "--max-num-batched-tokens 8192 --enable-scale-out --dtype float32 --host 127.0.0.1"
)
# Imports and loading the weights take a minute, and several on a busy machine.
READY_S = 1_800.0
ANSWER_S = 1_800.0


class VllmServer:
    """A vLLM process; the caller closes it.

    Attributes:
        url: The address, without ``/v1``.
    """

    def __init__(self, log: Path) -> None:
        """Start the server."""
        port, self._log = free_port(), log
        self.url = f"http://127.0.0.1:{port}"
        with log.open("wb") as stream:
            self._process = started(port, stream)

    def wait(self) -> None:
        """Wait until it is ready."""
        wait_until(self._is_over_or_ready, READY_S, "vLLM is ready")
        assert self._process.poll() is None, self._log.read_text()[-5_000:]

    def _is_over_or_ready(self) -> bool:
        if self._process.poll() is not None:
            return True
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=2):
            return True
        return False

    def load(self, weights: Path) -> None:
        """Replace the weights."""
        load_weights(self.url, weights)

    def close(self) -> None:
        """End the server's process group: after an unclean exit its children would stay."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(60)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def started(port: int, log: IO[bytes]) -> subprocess.Popen[bytes]:
    program = Path(sys.executable).with_name("vllm")
    command = [str(program), "serve", str(MODEL), *OPTIONS.split(), "--port", str(port)]
    environ = {**os.environ, **ENVIRON}
    return subprocess.Popen(command, env=environ, stdout=log, stderr=log, start_new_session=True)


def load_weights(url: str, weights: Path) -> None:
    """Make the server at ``url`` load the weights, and drop its cache of the previous ones."""
    call = {"method": "reload_weights", "kwargs": {"weights_path": str(weights)}}
    post(f"{url}/collective_rpc", call)
    post(f"{url}/reset_prefix_cache")


def post(url: str, body: dict[str, Any] | None = None) -> bytes:
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode() if body else b"", headers)
    with urllib.request.urlopen(request, timeout=ANSWER_S) as response:
        found: bytes = response.read()
        return found
