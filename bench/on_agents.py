"""Figures of the ready-made agents, beside the bare client or process below them."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import orjson

from agentpipe.config.agent_config import load_agent_config
from agentpipe.core.context import Context
from agentpipe.core.garbage import collect_rarely
from agentpipe.core.loop_turns import CountedLoop
from agentpipe.core.task import Task
from agentpipe.core.trace import Tracer
from agentpipe.engines.base import open_engine
from agentpipe.engines.instance import Instance
from agentpipe.engines.process import reaper
from bench.figures import show, show_rounds
from bench.peer import PYTHON
from bench.recording import attempt
from tests.llm_stub import LlmStub, say

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

MODEL = Path(__file__).with_name("peers") / "slow_model.py"
LLM_AGENTS, LLM_ROUNDS, ROUNDS = 1_000, 5, 2
FORKS = 64
COMMANDS = 200
CONTEXT = Context({"OPENAI_API_KEY": "none"})
# Starting fifty servers takes long if the machine has other work.
LIMIT_S = 600.0


def measure() -> None:
    with tempfile.TemporaryDirectory(prefix="agentpipe-bench-") as folder:
        attempt("llm agents", _measure_models, Path(folder))
        attempt("a command's task", _measure_commands, Path(folder))
        if PYTHON.exists():
            attempt("MCP-Universe's agents", _measure_mcpuniverse, Path(folder))


def engine_of(folder: Path, *documents: dict[str, Any]) -> Any:
    file = folder / "agent.yaml"
    file.write_bytes(b"\n---\n".join(map(orjson.dumps, documents)))  # JSON is YAML.
    return open_engine(load_agent_config(file))


def instances_of(engine: Any, number: int) -> list[Instance]:
    return [Instance("bench", engine, CONTEXT, in_thread=False) for _ in range(number)]


async def answer(instance: Instance) -> Any:
    with Tracer().root():
        return await instance.answer(Task(question="fine?"), LIMIT_S)


# Models.


def _measure_models(folder: Path) -> None:
    collect_rarely()  # As in a worker; the bare clients get it too.
    with _slow_model() as url:
        config = {"model": "openai:m", "base_url": url}
        spec = {"name": "bench", "type": "llm", "config": config}
        engine = engine_of(folder, {"kind": "agent", "spec": spec})
        ours, bare = list[float](), list[float]()
        for _ in range(ROUNDS):
            bare.append(_on_a_loop(_bare_per_s(url)))
            ours.append(_on_a_loop(_ours_per_s(engine)))
    label = f"{LLM_AGENTS:,} llm agents, a model that takes 1 s"
    show_rounds(label, ours, bare, "a bare HTTP client for each,")


@contextmanager
def _slow_model() -> Iterator[str]:
    process = subprocess.Popen([sys.executable, MODEL], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _on_a_loop(figure: Coroutine[Any, Any, float]) -> float:
    """Run on a worker's kind of loop, which does not charge runs for time others held up."""
    with asyncio.Runner(loop_factory=CountedLoop) as runner:
        return runner.run(figure)


async def _bare_per_s(url: str) -> float:
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    certificates = httpx2.create_ssl_context()
    made = [
        httpx2.AsyncClient(limits=limits, timeout=None, verify=certificates)
        for _ in range(LLM_AGENTS)
    ]
    body = {"model": "m", "messages": [{"role": "user", "content": "fine?"}]}

    async def ask(client: httpx2.AsyncClient) -> None:
        for _ in range(LLM_ROUNDS):
            (await client.post(f"{url}/chat/completions", json=body)).json()

    started = time.perf_counter()
    await asyncio.gather(*map(ask, made))
    took_s = time.perf_counter() - started
    await asyncio.gather(*(client.aclose() for client in made))
    return LLM_AGENTS * LLM_ROUNDS / took_s


async def _ours_per_s(engine: Any) -> float:
    first, *_ = instances = instances_of(engine, LLM_AGENTS)
    await answer(first)  # Imports happen once.

    async def ask(instance: Instance) -> None:
        for _ in range(LLM_ROUNDS):
            assert (await answer(instance)).value == "fine"

    started = time.perf_counter()
    await asyncio.gather(*map(ask, instances))
    took_s = time.perf_counter() - started
    await asyncio.gather(*(instance.close() for instance in instances))
    return LLM_AGENTS * LLM_ROUNDS / took_s


# Programs.


def _measure_commands(folder: Path) -> None:
    config = {"argv": ["true"]}
    engine = engine_of(
        folder, {"kind": "agent", "spec": {"name": "bench", "type": "command", "config": config}}
    )
    bare, ours = asyncio.run(_commands_ms(engine))
    show("a command's task", f"{ours:.1f} ms", f"{ours - bare:.1f} ms more than its bare process")


async def _commands_ms(engine: Any) -> tuple[float, float]:
    """Measure both alternately, under the same load."""
    (instance,) = instances_of(engine, 1)
    bare, ours = [], []
    for _ in range(COMMANDS):
        started = time.perf_counter()
        process = await asyncio.create_subprocess_exec("true", stdout=subprocess.PIPE)
        await process.communicate()
        between = time.perf_counter()
        await answer(instance)
        bare.append((between - started) * 1000)
        ours.append((time.perf_counter() - between) * 1000)
    await instance.close()
    return statistics.median(bare), statistics.median(ours)


# MCP-Universe's agents.


def _measure_mcpuniverse(folder: Path) -> None:
    asyncio.run(_measure_forks(folder))


async def _measure_forks(folder: Path) -> None:
    thought = orjson.dumps({"thought": "t", "answer": "fine"}).decode()
    with LlmStub([say(thought)]) as stub:
        llm = {"model_name": "m", "base_url": stub.url}
        documents = (
            {"kind": "llm", "spec": {"name": "l", "type": "openai", "config": llm}},
            {"kind": "agent", "spec": {"name": "a", "type": "react", "config": {"llm": "l"}}},
        )
        instances = instances_of(engine_of(folder, *documents), FORKS)
        started = time.perf_counter()
        await answer(instances[0])
        first_s = time.perf_counter() - started
        one_mb = _forks_pss_mb()
        await asyncio.gather(*map(answer, instances[1:]))
        all_s = time.perf_counter() - started
        each_mb = (_forks_pss_mb() - one_mb) / (FORKS - 1)
        await asyncio.gather(*(instance.close() for instance in instances))
    show(f"{FORKS} of MCP-Universe's agents, the first's answer", f"{first_s:.1f} s")
    show("  the last's", f"{all_s:.1f} s")
    show("  memory (PSS) of each beyond the first", f"{each_mb:.1f} MiB")


def _forks_pss_mb() -> float:
    """Memory of the reaper that has the package loaded, and of all its forks."""
    python = str(PYTHON).encode()
    found = 0.0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cmdline").read_bytes().split(b"\0")[1:2] != [REAPER]:
                continue
            if (entry / "cmdline").read_bytes().split(b"\0")[0] != python:
                continue
            rollup = (entry / "smaps_rollup").read_text()
        except OSError:
            continue
        found += next(int(line.split()[1]) for line in rollup.splitlines() if "Pss:" in line) / 1024
    return found


REAPER = reaper.__file__.encode()
