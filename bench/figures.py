"""Prints one figure per line: a value, and its ratio to a reference of the same run."""

from __future__ import annotations

import resource
import statistics
import time
from typing import TYPE_CHECKING, Any

from agentpipe import Dispatcher, Settings, load
from bench.fleet import seconds
from bench.peers.sending import QUESTION
from bench.recording import Row, note

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.fleet import Fleet

EVALUATOR = {"func": "raw", "op": "contain", "value": "42"}


def show(label: str, value: str, beside: str = "") -> None:
    note(Row(label, value, beside))


def show_rounds(label: str, ours: Sequence[float], bare: Sequence[float], noun: str) -> None:
    """Show speeds that alternate with a reference: medians, and the spread of the ratio."""
    ratios = sorted(mine / other for mine, other in zip(ours, bare, strict=True))
    spread = (ratios[0], statistics.median(ratios), ratios[-1])
    beside = f"{noun} {statistics.median(bare):,.0f}/s"
    note(Row(label, f"{statistics.median(ours):,.0f}/s", beside, spread))


def show_latencies(label: str, latencies_ms: Sequence[float]) -> None:
    """Show median and p99; ``latencies_ms`` is sorted."""
    p99 = latencies_ms[len(latencies_ms) * 99 // 100 - 1]
    show(label, f"{statistics.median(latencies_ms):.1f} ms", f"median; {p99:.1f} ms at p99")


def ratio(value: float, bare: float, noun: str) -> str:
    return f"{value / bare:.2f} of {noun} {bare:,.0f}/s"


def tasks(number: int) -> list[dict[str, Any]]:
    """Tasks of 1.5 KB each."""
    return [{"question": QUESTION, "metadata": {"index": index}} for index in range(number)]


def per_s(number: int, action: Callable[[], Any]) -> float:
    """Items per second, if ``action`` handles ``number`` of them."""
    started = time.perf_counter()
    action()
    return number / (time.perf_counter() - started)


def bulk_per_s(scratch: Fleet, number: int) -> float:
    dispatcher, prepared = sender(scratch), tasks(number)
    speed = per_s(number, lambda: dispatcher.send_many("bench", prepared))
    dispatcher.close()
    return speed


def single_per_s(scratch: Fleet, number: int) -> float:
    dispatcher, prepared = sender(scratch), tasks(number)
    speed = per_s(number, lambda: [dispatcher.send("bench", task) for task in prepared])
    dispatcher.close()
    return speed


def sender(scratch: Fleet) -> Dispatcher:
    settings = Settings(broker=scratch.environ["AGENTPIPE_BROKER"])
    return Dispatcher.open(load(scratch.environ["AGENT_COLLECTION_CONFIG_FILE"]), settings)


def latencies_ms(scratch: Fleet, number: int, before: int = 0) -> list[float]:
    """Times from sending to the start of the run, on idle workers; sorted.

    Args:
        before: Number of results that the stream already holds.
    """
    dispatcher, sent = sender(scratch), {}
    for _ in range(number):
        time.sleep(0.05)
        at = time.time()
        sent[dispatcher.send("bench", "q")] = at
    dispatcher.close()
    ours = [each for each in scratch.results(before + number) if each["task_id"] in sent]
    return sorted((seconds(each["started_at"]) - sent[each["task_id"]]) * 1000 for each in ours)


def children_cpu_s() -> float:
    """Processor time of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
