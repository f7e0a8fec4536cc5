"""The state of rollouts in a checkpoint: JSON, or with tensors of a shuffling loader."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

from agentpipe import ConfigError
from agentpipe.trl.checkpoint import load_state, save_state

if TYPE_CHECKING:
    from pathlib import Path

# Overwrites a state, and is killed just before the new file is renamed.
KILLED = """
import os, signal, sys
from pathlib import Path
from agentpipe.trl.checkpoint import save_state
Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
save_state(Path(sys.argv[1]), {"version": 1, "at": 2, "long": "x" * 1_000_000})
"""


@pytest.mark.parametrize("loader", [{"at": 3}, {"generator": torch.Generator().get_state()}])
def test_a_state_is_read_as_it_was_saved(tmp_path: Path, loader: dict[str, Any]) -> None:
    state = {"version": 1, "prompts": {"taken": 4, "loader": loader}}
    save_state(tmp_path, state)
    found = load_state(tmp_path)
    assert str(found) == str(state)
    assert len(list(tmp_path.iterdir())) == 1


def test_what_could_not_be_read_again_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="more than JSON and tensors"):
        save_state(tmp_path, {"prompts": {"loader": object()}})
    with pytest.raises(ConfigError, match="no state of rollouts"):
        load_state(tmp_path / "other")


def test_a_kill_while_a_state_is_written_leaves_the_one_before(tmp_path: Path) -> None:
    save_state(tmp_path, {"version": 1, "at": 1})
    killed = subprocess.run([sys.executable, "-c", KILLED, os.fspath(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert load_state(tmp_path) == {"version": 1, "at": 1}


@pytest.mark.parametrize(("folder", "file"), [(0o755, 0o644), (0o770, 0o660), (0o700, 0o600)])
def test_those_may_read_it_who_may_read_the_checkpoint(
    tmp_path: Path, folder: int, file: int
) -> None:
    tmp_path.chmod(folder)
    before = os.umask(0o002)
    try:
        save_state(tmp_path, {"at": 1})
    finally:
        os.umask(before)
    (found,) = tmp_path.iterdir()
    assert found.stat().st_mode & 0o777 == file


def test_a_state_of_the_other_kind_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    save_state(tmp_path, {"at": torch.Generator().get_state()})
    save_state(tmp_path, {"at": 2})
    assert load_state(tmp_path) == {"at": 2}
