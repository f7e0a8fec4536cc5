"""A trainer whose prompts come from a loader; its state and used groups are saved together."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe import Rollouts, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

PROMPTS = 24
JUDGED = [{"func": "raw", "op": "=", "value": "yes"}]


def rows() -> Iterator[dict[str, int]]:
    for number in range(PROMPTS):
        yield {"number": number}


def task_of(row: dict[str, int]) -> dict[str, Any]:
    return {"question": str(row["number"]), "evaluators": JUDGED}


def loader(kind: str) -> Any:
    if kind == "streamed":
        import datasets

        # An odd number of shards, into which the rows do not divide evenly.
        return datasets.Dataset.from_list(list(rows())).to_iterable_dataset(num_shards=5)
    if kind == "generated":
        import datasets

        return datasets.IterableDataset.from_generator(rows)
    import torch
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader(
        list(rows()),
        batch_size=5,
        shuffle=True,
        num_workers=2 if kind == "workers" else 0,
        collate_fn=list,
        generator=torch.Generator().manual_seed(3),
    )


def read(checkpoint: Path, kind: str) -> Any:
    if kind in ("streamed", "generated"):
        import json

        return json.loads(checkpoint.read_text())
    import torch

    return torch.load(checkpoint, weights_only=True)


def save(checkpoint: Path, kind: str, found: Any) -> None:
    fresh = checkpoint.with_suffix(".new")
    if kind in ("streamed", "generated"):
        import json

        fresh.write_text(json.dumps(found))
    else:
        import torch

        torch.save(found, fresh)
    fresh.replace(checkpoint)


def main() -> None:
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    checkpoint, used = folder / "checkpoint", list[str]()
    with Rollouts.open(
        folder / "mixed.yaml",
        loader(kind),
        n=2,
        batch=3,
        task_of=task_of,
        settings=Settings.from_env(os.environ),
        timeout_s=120,
    ) as rollouts:
        if checkpoint.exists():
            saved = read(checkpoint, kind)
            rollouts.load_state_dict(saved["state"])
            used = saved["used"]
        for batch in rollouts:
            used += [group.group_id for group in batch.groups]
            save(checkpoint, kind, {"state": rollouts.state_dict(), "used": used})
            with (folder / "progress").open("ab") as stream:
                stream.write(b".")
    (folder / "used").write_text("\n".join(used))


if __name__ == "__main__":
    main()
