"""Figures of runs: sending and running with and without them, alternately, and reports.

``python -m bench.bench runs``. If the machine has other work, the processor time of all processes
started for a figure is steadier than its speed.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.core.result import Result
from agentpipe.operations.judging.report import summarize
from bench.figures import EVALUATOR, children_cpu_s, show, show_rounds
from bench.fleet import fleet, results_per_s
from bench.on_archive import record
from bench.peers.sending import QUESTION
from bench.recording import attempt

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.fleet import Fleet

TASKS, RESULTS, ROUNDS = 5_000, 10_000, 3
SAMPLES = 4
NAMED = ("--run", "v2")


def measure() -> None:
    attempt("reports", judging)
    attempt("send a file with --run", in_turns, "send a file with --run", sent_per_s, *NAMED)
    attempt(
        "send a file with --samples",
        in_turns,
        "send a file with --samples",
        sent_per_s,
        *NAMED,
        "--samples",
        str(SAMPLES),
    )
    attempt(
        "instant agents, one evaluator, with --run",
        in_turns,
        "instant agents, one evaluator, with --run",
        ran_per_s,
        *NAMED,
    )


def judging() -> None:
    results = [Result.decode(record(number, "").payload) for number in range(RESULTS)]
    took_ms = []
    for _ in range(3 * ROUNDS):
        started = time.process_time()
        summarize(results)
        took_ms.append((time.process_time() - started) * 1_000)
    beside = f"of processor time, median; {min(took_ms):.0f} to {max(took_ms):.0f} ms"
    show(f"a report's statistics of {RESULTS:,}", f"{statistics.median(took_ms):.0f} ms", beside)


def in_turns(label: str, figure: Callable[..., float], *options: str) -> None:
    """Measure ``figure`` with the options of a run and without any."""
    speeds: tuple[list[float], list[float]] = [], []
    cpu: tuple[list[float], list[float]] = [], []
    for number in range(ROUNDS):
        for plain in (number % 2, 1 - number % 2):
            before = children_cpu_s()
            speeds[plain].append(figure(*(() if plain else options)))
            cpu[plain].append(TASKS / (children_cpu_s() - before))
    show_rounds(label, *speeds, "without a run,")
    show_rounds("  by processor time", *cpu, "without a run,")


def sent_per_s(*options: str) -> float:
    """Tasks per second of the command, including its start."""
    with fleet(8, "Instant") as scratch:
        started = time.perf_counter()
        send(scratch, *options)
        return TASKS / (time.perf_counter() - started)


def ran_per_s(*options: str) -> float:
    with fleet(8, "Instant") as scratch:
        send(scratch, *options)
        scratch.run("work", "--processes", "2", "--burst")
        return results_per_s(scratch.results(TASKS))


def send(scratch: Fleet, *options: str) -> None:
    """Send the same number of tasks, whether a line is one task or several."""
    lines = TASKS // SAMPLES if "--samples" in options else TASKS
    task: dict[str, Any] = {"question": QUESTION, "evaluators": [EVALUATOR]}
    file = scratch.folder / "tasks.jsonl"
    file.write_bytes(b"\n".join([orjson.dumps(task)] * lines))
    scratch.run("send", "bench", "--file", str(file), *options)
