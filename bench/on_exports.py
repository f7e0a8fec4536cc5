"""Figures of exports, beside reading the same results without writing any."""

from __future__ import annotations

import tempfile
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe import Settings
from agentpipe.archive import Archive
from agentpipe.archive.export.formats import FORMATS, Options
from agentpipe.core.redaction import Redactor
from agentpipe.core.result import Result
from agentpipe.sinks import open_sink
from agentpipe.sinks.base import Record
from bench.figures import show

if TYPE_CHECKING:
    from collections.abc import Iterator

TASKS, SAMPLES, TURNS = 1_250, 4, 6
TEXT = "The quick brown fox jumps over the lazy dog. " * 10
MEASURED = ("jsonl", "csv", "sft", "inspect")


def measure() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive = Archive.open(filled(folder))
        number = TASKS * SAMPLES
        started = time.perf_counter()
        deque(archive.results(run="v2"), maxlen=0)
        reading_s = time.perf_counter() - started
        show(f"reading {number:,} results of {TURNS} turns", f"{reading_s:.2f} s")
        for each in MEASURED:
            took_s, size = written(archive, each, folder / each)
            beside = f"{took_s / reading_s:.1f} of reading, {size / 1e6:.0f} MB"
            show(f"export --to {each}, {number:,} results", f"{took_s:.2f} s", beside)
        archive.close()


def written(archive: Archive, name: str, path: Path) -> tuple[float, int]:
    """Export; return the seconds, and the bytes of the file."""

    def find() -> Iterator[Result]:
        return archive.results(run="v2")

    started = time.perf_counter()
    with path.open("wb") as file:
        FORMATS[name].write(find, file, Options(run="v2"))
    return time.perf_counter() - started, path.stat().st_size


def filled(folder: Path) -> Settings:
    """Make an archive of one run."""
    settings = Settings(sink=f"sqlite:///{folder / 'results.db'}")
    sink = open_sink(settings)
    for task in range(TASKS):
        results = [result(task, sample) for sample in range(SAMPLES)]
        sink.publish([Record(each.task_id, each.encode(Redactor(()))) for each in results])
    sink.close()
    return settings


def result(task: int, sample: int) -> Result:
    spans = [span(turn, data) for turn, data in enumerate(turns(task))]
    return Result(
        task_id=f"v2/p{task}/{sample}",
        run="v2",
        collection="bench",
        group_id=f"v2/p{task}",
        sample_index=sample,
        group_size=SAMPLES,
        result=TEXT,
        reward=float(sample % 2),
        reward_trustworthy=True,
        usage={"requests": TURNS, "input_tokens": 1_000, "output_tokens": 100},
        started_at="2026-01-01T00:00:00.000000Z",
        finished_at="2026-01-01T00:00:09.000000Z",
        trace=spans,
    )


def turns(task: int) -> Iterator[dict[str, Any]]:
    """Requests to a model, with one tool call each."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": f"{task}: {TEXT}"}]
    for turn in range(TURNS):
        call = {"id": f"c{turn}", "name": "search", "arguments": '{"text": "fox"}'}
        model = {"type": "llm", "class": "openai", "config": {"model_name": "tiny"}}
        yield {**model, "messages": messages, "response": TEXT, "tool_calls": [call]}
        yield {
            "type": "tool",
            "tool_name": "search",
            "arguments": {"text": "fox"},
            "response": TEXT,
        }
        messages = [{"role": "tool", "tool_call_id": f"c{turn}", "content": TEXT}]


def span(index: int, data: dict[str, Any]) -> dict[str, Any]:
    now = 1_767_225_600.0 + index
    return {
        "id": f"s{index}",
        "trace_id": "t",
        "parent_id": "root",
        "records": [{"timestamp": now, "data": data}],
        "running_time": 0.5,
        "timestamp": now,
        "span_index": index,
    }
