"""Results and rollouts as datasets of Hugging Face.

A column of theirs has one type, so what is nested is JSON text here, and ``sample_features`` says
the types: else the first rows decide them, and may have no reward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from agentpipe import Archive, Stream
from agentpipe.rollouts import Sample, samples

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentpipe import Result, Settings


def result_row(result: Result) -> dict[str, Any]:
    """A Result with all of its fields; those that may be nested are JSON text."""
    plain = (str, int, float, bool, type(None))
    found = result.to_dict()
    nested = {"result", *(name for name, value in found.items() if not isinstance(value, plain))}
    return {name: _json(value) if name in nested else value for name, value in found.items()}


def sample_row(sample: Sample) -> dict[str, Any]:
    """A row of token ids, as ``sample_features`` has it."""
    row = {name: getattr(sample, name) for name in Sample.__slots__}
    return {
        **row,
        "versions": [str(version) for version in sample.versions],
        "rewards": _json(sample.rewards),
        "metadata": _json(sample.metadata),
    }


def sample_features() -> Any:
    """The types of ``sample_row``, for ``features=``."""
    from datasets import Features, List, Value

    kinds = {
        "string": ("task_id", "group_id", "stop", "rewards", "metadata"),
        "int64": ("sample_index", "segment", "segments"),
        "float64": ("reward",),
    }
    columns = {name: Value(kind) for kind, names in kinds.items() for name in names}
    lists = {"input_ids": "int64", "loss_mask": "int8", "logprobs": "float32", "versions": "string"}
    listed = {name: List(Value(kind)) for name, kind in lists.items()}
    found = {**columns, **listed}
    return Features({name: found[name] for name in Sample.__slots__})


def archived_samples(settings: Settings, run: str) -> Iterator[dict[str, Any]]:
    """The rows of a run that can be trained on, from an embedded sink."""
    with Archive.open(settings) as archive:
        for result in archive.results(run=run):
            if result.reward_trustworthy:
                yield from map(sample_row, samples(result))


def streamed_samples(settings: Settings, timeout_s: float | None) -> Iterator[dict[str, Any]]:
    """The rows of the whole stream, from its beginning.

    Without a reading group: ``IterableDataset`` goes on after its state by passing over as many
    rows as it has given, and a group would not give these again.
    """
    with Stream.open(settings, start="beginning", timeout_s=timeout_s) as stream:
        for result in stream:
            yield from map(sample_row, samples(result))


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
