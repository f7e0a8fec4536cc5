"""The state of rollouts in a checkpoint: JSON, or with the tensors of a loader that shuffles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from agentpipe import ConfigError
from agentpipe.trl.checkpoint import load_state, save_state

if TYPE_CHECKING:
    from pathlib import Path


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
