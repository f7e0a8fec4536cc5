"""A trainer that now and then saves its weights with the state of its reader."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from torchdata.stateful_dataloader import StatefulDataLoader

from agentpipe.training.dataset import AgentStreamingDataset

EVERY = 7


def main() -> None:
    checkpoint, progress = Path(sys.argv[1]), Path(sys.argv[2])
    kind, to_the_end = sys.argv[3], len(sys.argv) > 4
    source = opened(kind, timeout_s=1 if to_the_end else None)
    learnt: list[str] = []
    if checkpoint.exists():
        saved = json.loads(checkpoint.read_text())
        learnt = saved["learnt"]
        source.load_state_dict(saved["state"])
    for step, item in enumerate(source, 1):
        learnt += item if kind == "loader" else [item]
        if step % EVERY == 0:
            save(checkpoint, learnt, source)
        with progress.open("ab") as stream:
            stream.write(b".")
    save(checkpoint, learnt, source)


def opened(kind: str, timeout_s: float | None) -> Any:
    """Results, groups, or batches of groups from a loader with workers."""
    if kind == "results":
        return AgentStreamingDataset(timeout_s=timeout_s, transform=task_of)
    # The loader requests a state after each batch, while its workers are some batches ahead.
    options: dict[str, Any] = {"lag": 4, "keep_states": 20} if kind == "loader" else {}
    groups = AgentStreamingDataset(timeout_s=timeout_s, groups=True, transform=group_of, **options)
    if kind == "groups":
        return groups
    return StatefulDataLoader(groups, batch_size=2, num_workers=2, collate_fn=list)


def task_of(item: dict[str, Any]) -> str:
    return str(item["task_id"])


def group_of(group: Any) -> str:
    return str(group.group_id)


def save(checkpoint: Path, learnt: list[str], source: Any) -> None:
    fresh = checkpoint.with_suffix(".new")
    fresh.write_text(json.dumps({"learnt": learnt, "state": source.state_dict()}))
    fresh.replace(checkpoint)


if __name__ == "__main__":
    main()
