"""Figures of archives: ``python -m bench.on_archive [RESULTS]``.

Times of commands include Python's start.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe.archive import Archive
from agentpipe.archive.collect import Collector
from agentpipe.core.redaction import Redactor
from agentpipe.core.result import Result
from agentpipe.core.timestamps import utc
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from agentpipe.sinks.base import Keeper, Record, Trimmable
from bench.figures import children_cpu_s, per_s, show
from bench.recording import attempt
from brokers.server_kafka import KafkaServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from agentpipe.sinks.base import Sink

RESULTS, OF_RUN, COLLECTED = 1_000_000, 10_000, 100_000
COMPARED, PAIR = 2_000, ("a", "b")
BATCH = 1_000
BEGAN = 1_800_000_000.0


def measure(results: int = RESULTS // 5) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.db"
        settings = Settings(sink=f"sqlite:///{path}?synchronous=normal")
        attempt("an archive", searching, settings, results)
        path.unlink(missing_ok=True)
        attempt("collect", collecting, Path(folder))


def searching(settings: Settings, results: int) -> None:
    with closing(open_sink(settings)) as sink:
        speed = per_s(results, lambda: publish(sink, batches(results, "")))
        show(f"make and publish {results:,} results of 1 KB", f"{speed:,.0f}/s")
    run = f"v{results // OF_RUN // 2}"
    show_search(f"open, and read a run of {OF_RUN:,}", settings, {"run": run}, OF_RUN)
    command("agentpipe report --run, of as many", settings, "report", "--run", run, "--json")
    command("agentpipe show, as a command", settings, "show", f"{run}/00007", "--json")
    with closing(open_sink(settings)) as sink:
        publish(sink, ([of_pair(run, each) for each in range(COMPARED)] for run in PAIR))
    label = f"agentpipe compare, of two runs of {COMPARED:,}"
    command(label, settings, "compare", *PAIR, "--json")
    with closing(open_sink(settings)) as sink:
        assert isinstance(sink, Keeper)
        show("index them all, once", f"{per_s(results, sink.index):,.0f}/s")
        assert isinstance(sink, Trimmable)
        show("bytes of an archive, of each result", f"{sink.size().size_bytes / results:,.0f}")
    show_search(f"open, and read a run of {OF_RUN:,}, by index", settings, {"run": run}, OF_RUN)
    show_search("open, and read a group of 8", settings, {"group": f"{run}/g7"}, 8)


def show_search(label: str, settings: Settings, query: dict[str, Any], number: int) -> None:
    def search() -> None:
        with Archive.open(settings) as archive:
            assert sum(1 for _ in archive.results(**query)) == number

    show(label, f"{took_s(search) * 1000:,.0f} ms")


def command(label: str, settings: Settings, *arguments: str) -> None:
    program = [sys.executable, "-m", "agentpipe", *arguments]
    environ = os.environ | {"AGENTPIPE_SINK": settings.sink}

    def run() -> None:
        subprocess.run(program, env=environ, check=True, stdout=subprocess.DEVNULL)

    run()
    before = children_cpu_s()
    times_s = [took_s(run) for _ in range(5)]
    cpu_ms = (children_cpu_s() - before) / len(times_s) * 1000
    beside = f"best of {len(times_s)}; {cpu_ms:,.0f} ms of processor time"
    show(label, f"{min(times_s) * 1000:,.0f} ms", beside)


def collecting(folder: Path) -> None:
    with KafkaServer(folder / "kafka", environ=os.environ) as kafka:
        settings = Settings(sink=f"{kafka.url}/results?partitions=4")
        target = Settings(sink=f"sqlite:///{folder / 'kept.db'}")
        with closing(open_sink(settings)) as sink, closing(open_sink(target)) as archive:
            publish(sink, batches(COLLECTED, "x" * 2_000))
            assert isinstance(archive, Keeper)
            with closing(sink.follow(archive.reader_group(), "beginning")) as reader:
                collector = Collector(reader, archive)

                def count(_number: int) -> None:
                    if collector.done.collected == COLLECTED:
                        collector.stop()

                speed = per_s(COLLECTED, lambda: collector.run(60.0, count))
        show("collect results of 3 KB from Kafka", f"{speed:,.0f}/s")


def publish(sink: Sink, records: Iterable[list[Record]]) -> None:
    for batch in records:
        sink.publish(batch)


def batches(number: int, answer: str) -> Iterator[list[Record]]:
    for start in range(0, number, BATCH):
        yield [record(each, answer) for each in range(start, start + BATCH)]


def record(number: int, answer: str) -> Record:
    return encoded(result_of(f"v{number // OF_RUN}", number, answer))


def of_pair(run: str, number: int) -> Record:
    """The record of a task with one sample and its own reward: the most expensive to compare."""
    reward = random.Random(f"{run}{number}").random()
    alone: dict[str, Any] = {
        "group_id": None,
        "sample_index": None,
        "group_size": None,
        "reward": reward,
    }
    return encoded(replace(result_of(run, number, ""), **alone))


def encoded(result: Result) -> Record:
    return Record(result.task_id, result.encode(Redactor(())))


def result_of(run: str, number: int, answer: str) -> Result:
    index = number % OF_RUN
    return Result(
        task_id=f"{run}/{index:05}",
        run=run,
        group_id=f"{run}/g{index // 8}",
        sample_index=index % 8,
        group_size=8,
        task={"question": "What is 6 times 7?"},
        result=f"42{answer}",
        reward=float(index % 2),
        reward_trustworthy=True,
        collection="bench",
        agent=f"bench_{number % 100}",
        attempt=1,
        outcome="limit" if index % 10 == 0 else "ok",
        usage={"input_tokens": 812, "output_tokens": 44, "usd": 0.001},
        submitted_at=utc(BEGAN + number),
        started_at=utc(BEGAN + number + 1),
        finished_at=utc(BEGAN + number + 2),
    )


def took_s(action: Callable[[], None]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


if __name__ == "__main__":
    measure(*map(int, sys.argv[1:]))
