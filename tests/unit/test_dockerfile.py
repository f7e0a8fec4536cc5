"""deploy/Dockerfile passes its linter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HADOLINT = Path(sys.executable).with_name("hadolint")
DOCKERFILE = Path(__file__).parents[2] / "deploy" / "Dockerfile"

pytestmark = pytest.mark.skipif(
    sys.platform not in ("linux", "darwin"), reason="hadolint has no program for this system"
)


def lint(text: str) -> subprocess.CompletedProcess[str]:
    command = [str(HADOLINT), "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


def test_hadolint_finds_nothing() -> None:
    done = lint(DOCKERFILE.read_text())
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_hadolint_would_find_what_is_unpinned() -> None:
    done = lint(DOCKERFILE.read_text().replace("python:3.13-slim-bookworm", "python:latest"))
    assert (done.returncode, "DL3007" in done.stdout) == (1, True)
