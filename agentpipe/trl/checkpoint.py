"""The state of rollouts in a checkpoint's folder."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.connections.new_file import new_file
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

STATE_FILE = "agentpipe_rollouts.json"
# Used instead if a loader's state has tensors, as a shuffling loader's has.
TENSORS_FILE = "agentpipe_rollouts.pt"


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write the state; after a kill either the old file or the complete new one is there.

    The file's readers are those of its folder, as for the rest of the checkpoint.

    Raises:
        ConfigError: The state has values other than JSON and tensors.
        AgentpipeError: The file cannot be written.
    """
    try:
        name, content = STATE_FILE, orjson.dumps(state)
    except TypeError:
        name, content = TENSORS_FILE, _with_tensors(folder / TENSORS_FILE, state)
    with new_file(folder / name, force=True, like=folder) as file:
        file.write(content)
    (other,) = {STATE_FILE, TENSORS_FILE} - {name}
    (folder / other).unlink(missing_ok=True)  # An earlier run may have written the other file.


def _with_tensors(file: Path, state: dict[str, Any]) -> bytes:
    import torch

    content = BytesIO()
    torch.save(state, content)
    content.seek(0)
    try:
        torch.load(content, weights_only=True)  # Check that it can be loaded after a kill.
    except Exception as error:
        text = "the state of the prompts has more than JSON and tensors: give another loader"
        raise ConfigError(f"{file}: {text}: {error}") from error
    return content.getvalue()


def load_state(folder: Path) -> dict[str, Any]:
    """Read the state.

    Raises:
        ConfigError: There is none, or it cannot be read.
    """
    file = folder / TENSORS_FILE
    try:
        if file.exists():
            import torch

            found: dict[str, Any] = torch.load(file, weights_only=True)
            return found
        file = folder / STATE_FILE
        found = orjson.loads(file.read_bytes())
    except Exception as error:  # torch raises errors of many types.
        raise ConfigError(
            f"{file}: no state of rollouts: {error}; add rollouts.callback() to the trainer"
        ) from error
    return found
