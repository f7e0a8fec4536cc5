"""A trainer that saves what it has learnt with its dataset's state, now and then."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from agentpipe.sinks.dataset import AgentStreamingDataset

EVERY = 7


def main() -> None:
    checkpoint, progress = Path(sys.argv[1]), Path(sys.argv[2])
    to_the_end = len(sys.argv) > 3
    dataset = AgentStreamingDataset(timeout_s=1 if to_the_end else None)
    learnt: list[str] = []
    if checkpoint.exists():
        saved = json.loads(checkpoint.read_text())
        learnt = saved["learnt"]
        dataset.load_state_dict(saved["state"])
    for step, item in enumerate(dataset, 1):
        learnt.append(item["task_id"])
        if step % EVERY == 0:
            save(checkpoint, learnt, dataset)
        with progress.open("ab") as stream:
            stream.write(b".")
    save(checkpoint, learnt, dataset)


def save(checkpoint: Path, learnt: list[str], dataset: AgentStreamingDataset) -> None:
    fresh = checkpoint.with_suffix(".new")
    fresh.write_text(json.dumps({"learnt": learnt, "state": dataset.state_dict()}))
    fresh.replace(checkpoint)


if __name__ == "__main__":
    main()
