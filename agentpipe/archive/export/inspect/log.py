"""The log: writes samples one by one into a zip, then the summaries and the header."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from agentpipe.archive.export.columns import moment_of
from agentpipe.archive.export.inspect.events import NO_MODEL, model_of
from agentpipe.archive.export.inspect.places import Places
from agentpipe.archive.export.inspect.samples import sample_of, summary_of
from agentpipe.archive.export.inspect.scores import Scores
from agentpipe.core.timestamps import utc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from agentpipe.archive.export.inspect.messages import Json
    from agentpipe.archive.export.inspect.places import SamplePlace
    from agentpipe.core.result import Result

VERSION = 2
# From 1 to 9: higher levels take most of the time and save little.
COMPRESSION = 2


def write_inspect(
    find: Callable[[], Iterator[Result]], file: BinaryIO, run: str | None
) -> tuple[int, int]:
    """Write a log; returns the number of samples, and of earlier attempts left out.

    Args:
        find: Returns the results of the stream in order, each time it is called.
        file: Must be seekable; left open.
        run: The run that all results belong to, if there is one.
    """
    head = _Head(run)
    for result in find():
        head.add(result)
    places = head.places.all()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=COMPRESSION) as log:
        scores = _write_samples(log, find(), places)
        spec = head.spec(places, scores)
        plan = {"name": "plan", "steps": [], "config": {}}
        _put(log, "_journal/start.json", {"version": VERSION, "eval": spec, "plan": plan})
        header = {"version": VERSION, "status": "success", "eval": spec, "plan": plan}
        _put(
            log, "header.json", {**header, "results": scores.results(), "stats": head.stats(scores)}
        )
    return scores.samples, head.results - scores.samples


def _put(log: zipfile.ZipFile, name: str, value: Json) -> None:
    log.writestr(name, orjson.dumps(value))


def _write_samples(
    log: zipfile.ZipFile, results: Iterator[Result], places: Mapping[int, SamplePlace]
) -> Scores:
    """Write the samples, then their summaries as one file, which is buffered on disk meanwhile."""
    scores = Scores()
    with tempfile.TemporaryFile() as summaries:
        for number, result in enumerate(results):
            if (place := places.get(number)) is None:
                continue
            sample = sample_of(result, place)
            name = f"samples/{place.sample_id}_epoch_{place.epoch}.json"
            log.writestr(name, orjson.dumps(sample))
            summaries.write(b"," if scores.samples else b"[")
            summaries.write(orjson.dumps(summary_of(sample)))
            scores.add(sample)
        summaries.write(b"]" if scores.samples else b"[]")
        summaries.seek(0)
        with log.open("summaries.json", "w", force_zip64=True) as entry:
            shutil.copyfileobj(summaries, entry)
    return scores


@dataclass(slots=True)
class _Head:
    """The header's data about all results, gathered before the samples are written."""

    run: str | None
    places: Places = field(init=False)
    results: int = 0
    model: str = NO_MODEL
    collections: dict[str, None] = field(default_factory=dict)
    _begun: list[Any] = field(default_factory=list)
    _ended: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.places = Places(self.run)

    def add(self, result: Result) -> None:
        self.results += 1
        self.places.add(result)
        if self.model == NO_MODEL:
            self.model = model_of(result)
        if result.collection:
            self.collections[result.collection] = None
        begun, ended = (moment_of(it) for it in (result.started_at, result.finished_at))
        self._begun = [min([*self._begun, begun])] if begun else self._begun
        self._ended = [max([*self._ended, ended])] if ended else self._ended

    def spec(self, places: Mapping[int, SamplePlace], scores: Scores) -> Json:
        ids = list(dict.fromkeys(each.sample_id for each in places.values()))
        task = ", ".join(self.collections) or "agentpipe"
        key = f"{self.run}\n{task}\n{self._created}"
        return {
            "eval_id": hashlib.blake2b(key.encode(), digest_size=11).hexdigest(),
            "run_id": self.run or "",
            "created": self._created,
            "task": task,
            "task_id": task,
            "dataset": {"name": self.run or task, "samples": len(ids), "sample_ids": ids},
            "model": self.model,
            "config": {
                "epochs": max((each.epoch for each in places.values()), default=1),
                "epochs_reducer": ["mean"],
            },
            "scorers": scores.scorers(),
        }

    @property
    def _created(self) -> str:
        return self._begun[0].isoformat() if self._begun else utc(time.time())

    def stats(self, scores: Scores) -> Json:
        ended = self._ended[0].isoformat() if self._ended else self._created
        return {"started_at": self._created, "completed_at": ended, "model_usage": scores.usage}
