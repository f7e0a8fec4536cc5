"""A trainer's loop over loaders' prompts, with real workers and kills; run by `make test-torch`."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until
from tests.torch.looping import PROMPTS

if TYPE_CHECKING:
    from collections.abc import Iterator

TRAINER = Path(__file__).with_name("looping.py")
AGENTS = """
import os
class Mixed:
    async def execute(self, task, context):
        with open(os.environ["JOURNAL"], "a") as file:
            file.write(f"{task.group_id} {task.question}\\n")
        return "yes" if task.sample_index % 2 else "no"
"""
AGENT = """
kind: agent
spec: {name: mixed, type: python, config: {class: "mine:Mixed"}}
"""
COLLECTION = """
kind: collection
spec: {name: mixed, config: ./agent.yaml, number: 2, max_queue_size: 20}
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "mine.py").write_text(AGENTS)
    (tmp_path / "agent.yaml").write_text(AGENT)
    (tmp_path / "mixed.yaml").write_text(COLLECTION)
    (tmp_path / "journal").touch()
    return {
        **os.environ,
        "PYTHONPATH": str(Path.cwd()),
        "AGENTPIPE_BROKER": f"sqlite:///{tmp_path / 'broker.db'}",
        "AGENTPIPE_SINK": f"sqlite:///{tmp_path / 'results.db'}",
        "JOURNAL": str(tmp_path / "journal"),
    }


@pytest.fixture(autouse=True)
def workers(environ: dict[str, str], tmp_path: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "agentpipe", "work", "-c", "mixed.yaml"]
    with (tmp_path / "work.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environ, stderr=log, stdout=log)
    yield
    process.send_signal(signal.SIGTERM)
    process.wait(60)


@pytest.mark.parametrize("kind", ["streamed", "generated", "shuffled", "workers"])
def test_each_prompt_of_a_loader_is_sent_and_used_once_over_kills(
    environ: dict[str, str], tmp_path: Path, kind: str
) -> None:
    command = [sys.executable, str(TRAINER), str(tmp_path), kind]
    dice, progress = random.Random(kind), tmp_path / "progress"
    for _ in range(2):
        progress.write_bytes(b"")
        process = subprocess.Popen(command, env=environ)
        steps = dice.randrange(1, 4)
        wait_until(
            lambda: progress.stat().st_size >= steps,  # noqa: B023
            120,
            "the loop has used so many batches",
        )
        process.kill()
        process.wait()
    subprocess.run(command, env=environ, check=True, timeout=240)
    ran = Counter((tmp_path / "journal").read_text().splitlines())
    asked = dict(line.split() for line in ran)  # Keyed by the group's name.
    used = [asked[group] for group in (tmp_path / "used").read_text().split()]
    assert sorted(used, key=int) == [str(number) for number in range(PROMPTS)]
    assert sorted(asked.values(), key=int) == sorted(used, key=int)
    assert set(ran.values()) == {2}  # Each of the two members ran once.
