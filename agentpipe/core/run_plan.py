"""RunPlan: assign tasks to a run, with ids, samples and seeds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentpipe.core.run_names import prefix_of, without_run
from agentpipe.core.task_fields import MAX_ID

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_OF_SAMPLES = ("group_id", "sample_index", "group_size")
_OF_RUNS = frozenset({"run", "task_id", *_OF_SAMPLES})


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What one call sends into a run.

    Attributes:
        samples: How many times each task is sent; 0 sends it once, without a group.
        same_seed: Do not give each sample its own seed.
    """

    run: str
    samples: int = 0
    same_seed: bool = False

    def problems(self, given: Mapping[str, Any]) -> list[str]:
        """Return why a task with these fields cannot join this run, one sentence each."""
        if _OF_RUNS.isdisjoint(given):
            return []
        return [*self._wrong_run(given), *self._wrong_ids(given), *self._wrong_samples(given)]

    def _wrong_run(self, given: Mapping[str, Any]) -> Iterator[str]:
        if (run := given.get("run")) not in (None, self.run):
            yield f"run: the task says {run!r}, --run says {self.run!r}: remove one of them"

    def _wrong_ids(self, task: Mapping[str, Any]) -> Iterator[str]:
        for name in ("task_id", "group_id"):
            if not (given := task.get(name)):
                continue
            longest = len(prefix_of(self.run) + given) + len(self._suffix(self.samples))
            if longest > MAX_ID:
                yield (
                    f"{name}: with the run's name it would have {longest} characters, "
                    f"{MAX_ID} are allowed: shorten it"
                )

    def _wrong_samples(self, given: Mapping[str, Any]) -> Iterator[str]:
        if not self.samples:
            return
        for name in _OF_SAMPLES:
            if given.get(name) is not None:
                yield f"{name}: --samples sets it: remove the key"

    def fields(self, given: Mapping[str, Any], key: str) -> Iterator[dict[str, Any]]:
        """Yield the fields of each task to send; ``key`` is its id, with or without a run."""
        name = f"{prefix_of(self.run)}{without_run(key, given.get('run'))}"
        if not self.samples:
            group = self._group_of(given) if given.get("group_id") else None
            yield {"run": self.run, "task_id": name, "group_id": group}
        for index in range(self.samples):
            yield self._sample(name, index)

    def _group_of(self, given: Mapping[str, Any]) -> str:
        """Return the group's name in this run, which can already have the run's prefix."""
        prefix, group = prefix_of(self.run), str(given["group_id"])
        return group if given.get("run") and group.startswith(prefix) else prefix + group

    def _sample(self, name: str, index: int) -> dict[str, Any]:
        task_id = f"{name}{self._suffix(index)}"
        fields = {"run": self.run, "task_id": task_id, "group_id": name}
        seed = {} if self.same_seed else {"seed": seed_of(task_id)}
        return {**fields, "sample_index": index, "group_size": self.samples, **seed}

    def _suffix(self, index: int) -> str:
        return f"/{index}" if self.samples else ""


def seed_of(task_id: str) -> int:
    """Return a sample's seed: the first 31 bits of the SHA-256 of its id."""
    digest = hashlib.sha256(task_id.encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:4]) >> 1
