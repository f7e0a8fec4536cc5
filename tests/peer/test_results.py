"""The peer's consumer reads our results; run by `make test-mcpuniverse`, in its environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# `mcpuniverse.pipeline` needs these when imported, even without Redis.
ENVIRON = {"REDIS_HOST": "localhost", "REDIS_PORT": "6379"}


@pytest.fixture
def stream(tmp_path: Path) -> list[bytes]:
    """What our workers publish: an answer with its evaluation, and a failure."""
    (tmp_path / "both.yaml").write_text(
        f"kind: collection\nspec: {{name: echo, config: {ROOT}/configs/echo-agent.yaml}}\n"
    )
    ours = [str(ROOT / ".venv" / "bin" / "agentpipe")]
    environ = {**os.environ, "AGENT_COLLECTION_CONFIG_FILE": str(tmp_path / "both.yaml")}

    def run(*arguments: str, stdin: bytes = b"") -> bytes:
        return subprocess.run(
            [*ours, *arguments],
            cwd=tmp_path,
            env=environ,
            input=stdin,
            check=True,
            capture_output=True,
        ).stdout

    tasks = (
        b'{"question": "42", "evaluators": [{"func": "raw", "op": "contain", "value": "42"}]}\n'
        b'{"question": "late", "deadline": 1, "metadata": {"k": "v"}}\n'
    )
    run("send", "echo", "--file", "-", stdin=tasks)
    run("work", "--burst", "--processes", "1")
    return run("tail", "--from", "beginning", "--timeout", "0", "--json").splitlines()


def test_mcp_universes_deserializer_accepts_our_results(
    stream: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    from mcpuniverse.evaluator.evaluator import EvaluationResult
    from mcpuniverse.pipeline.utils import deserialize_task_output
    from mcpuniverse.tracer.types import TraceRecord

    outputs = {output["outcome"]: output for output in map(deserialize_task_output, stream)}
    ok, stale = outputs["ok"], outputs["stale"]
    assert ok["result"] == "42"
    (verdict,) = ok["evaluation_results"]
    assert isinstance(verdict, EvaluationResult)
    assert verdict.passed
    assert verdict.config.value == "42"
    assert ok["trace"]
    assert all(isinstance(span, TraceRecord) for span in ok["trace"])
    assert ok["trace"][-1].records[0].data
    assert stale["metadata"] == {"k": "v"}
    assert sys.modules.get("agentpipe") is None
