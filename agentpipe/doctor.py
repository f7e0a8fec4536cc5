"""Doctor: looks at versions, servers, clocks and limits, and says what to do. Nothing is sent."""

from __future__ import annotations

import importlib.util
import platform
import resource
import sqlite3
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe import __version__
from agentpipe.brokers import open_store
from agentpipe.errors import ConfigError, FormatError, Unreachable
from agentpipe.finding import MAX_SKEW_S, Examined, Finding, fail, ok, warn
from agentpipe.mcp_universe import VERSION
from agentpipe.settings import without_password
from agentpipe.sinks import open_sink
from agentpipe.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from agentpipe.brokers.store import Store
    from agentpipe.settings import Settings
    from agentpipe.sinks.sink import Sink
    from agentpipe.task import Result

PACKAGES = ("dramatiq", "redis", "pika", "kafka-python", "APScheduler")
EXTRAS = {"llm": ("pydantic_ai", "mcp"), "torch": ("torch",)}
MIN_FILES = 1024
RECENT_S = 3600.0
MAX_RECENT = 1_000
QUIET_S = 60.0


@dataclass(frozen=True, slots=True)
class Examination:
    """All that was found; ``unreachable`` where a server does not answer."""

    findings: tuple[Finding, ...]
    unreachable: bool

    @property
    def is_ok(self) -> bool:
        """Whether nothing has failed."""
        return not any(each.status == "fail" for each in self.findings)


def examine(settings: Settings, environ: Mapping[str, str]) -> Examination:
    """Look at everything; one thing that is away hides nothing else."""
    away: list[str] = []
    findings = [
        *versions(),
        *extras(environ),
        open_files(),
        *_server("broker", settings.broker, lambda: _of_store(settings), away),
        *_server("sink", settings.sink, lambda: _of_sink(settings), away),
    ]
    return Examination(tuple(findings), bool(away))


# This machine.


def versions() -> Iterator[Finding]:
    """Of what runs here."""
    yield ok("agentpipe", __version__)
    yield ok("Python", f"{platform.python_version()} at {sys.executable}")
    yield ok("SQLite", sqlite3.sqlite_version)
    for name in PACKAGES:
        try:
            yield ok(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield fail(name, "not installed", "install agentpipe anew: pip install -e .")


def extras(environ: Mapping[str, str]) -> Iterator[Finding]:
    """What only some agents need; to lack it is no fault."""
    for extra, modules in EXTRAS.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        how = f"not installed; pip install 'agentpipe[{extra}]' where it is needed"
        yield ok(f"extra {extra}", how if missing else "installed")
    yield _mcp_universe(environ)


def _mcp_universe(environ: Mapping[str, str]) -> Finding:
    """The Python that the engine of that name would take; it is not started."""
    name, variable = "Python of mcpuniverse", "AGENTPIPE_MCPUNIVERSE_PYTHON"
    folders = (Path.cwd(), Path(sys.prefix).parent)
    places = [folder / ".venv-mcpuniverse" / "bin" / "python" for folder in folders]
    if named := environ.get(variable):
        places = [Path(named)]
    found = next((place for place in places if place.exists()), None)
    if found is None and named:
        return fail(name, f"none at {named}", f"correct {variable}, or unset it")
    if found is None:
        return ok(name, "none; `make mcpuniverse` makes one where it is needed")
    if not list(found.parent.parent.glob("lib/python*/site-packages/mcpuniverse")):
        advice = f"{found} -m pip install {VERSION.replace(' ', '==')}"
        return warn(name, f"{found} seems to have no mcpuniverse", advice)
    return ok(name, str(found))


def open_files() -> Finding:
    """How many files and connections a process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{_limit(soft)}, may be raised to {_limit(hard)}"
    if soft != resource.RLIM_INFINITY and soft < MIN_FILES:
        return warn("ulimit -n", found, f"ulimit -n {MIN_FILES}: agents' connections count, too")
    return ok("ulimit -n", found)


def _limit(number: int) -> str:
    return "unlimited" if number == resource.RLIM_INFINITY else f"{number:,}"


# The servers.


def _server(
    role: str, url: str, look: Callable[[], list[Finding]], away: list[str]
) -> Iterator[Finding]:
    """Whether it is reached, and what it tells; all under its role."""
    shown = without_password(url)
    try:
        found = look()
    except Unreachable as error:
        away.append(role)
        yield fail(role, str(error), "start the server, or correct its URL")
        return
    except ConfigError as error:
        yield fail(role, str(error), "correct its URL")
        return
    yield ok(role, f"{shown} answers")
    yield from (replace(each, name=f"{role} {each.name}") for each in found)


def _of_store(settings: Settings) -> list[Finding]:
    store = open_store(settings)
    try:
        return [*_told_by(store), _workers(store)]
    finally:
        store.close()


def _of_sink(settings: Settings) -> list[Finding]:
    sink = open_sink(settings)
    try:
        return [*_told_by(sink), *_clocks_of_workers(sink)]
    finally:
        sink.close()


def _told_by(opened: object) -> list[Finding]:
    return opened.examine() if isinstance(opened, Examined) else []


def _workers(store: Store) -> Finding:
    try:
        workers = store.stats().workers
    except Unreachable as error:  # Some can tell only with help that may be away.
        return warn("workers", str(error), "`status` does not work either until this does")
    if not workers:
        return ok("workers", "none at present")
    hosts = len({worker.host for worker in workers})
    quietest = max(workers, key=lambda worker: worker.seen_s)
    found = f"{len(workers)} on {hosts} machines, each heard within {quietest.seen_s:.0f} s"
    if quietest.seen_s > QUIET_S:
        advice = f"see whether {quietest.name} lives: its tasks run elsewhere after its lease"
        return warn("workers", found, advice)
    return ok("workers", found)


def _clocks_of_workers(sink: Sink) -> Iterator[Finding]:
    """By what their latest results say; a sink that keeps no past tells nothing."""
    now = time.time()
    with suppress(ConfigError):
        yield worker_clocks(_recent(sink, now - RECENT_S), now)


def _recent(sink: Sink, since: float) -> Iterator[Result]:
    reader = sink.follow(None, since)
    try:
        for number, result in enumerate(Stream(reader, timeout_s=0), 1):
            yield result
            if number == MAX_RECENT:
                return
    finally:
        reader.close()


def worker_clocks(results: Iterator[Result], now: float) -> Finding:
    """Whether any worker ended a run in the future, or began one before it was accepted."""
    worst, who, seen = 0.0, "", 0
    for result in results:
        seen += 1
        for off_s in _offsets(result, now):
            if off_s > worst:
                worst, who = off_s, str(result.worker)
    if not seen:
        return ok("clocks of workers", "no result within the last hour tells of them")
    if worst > MAX_SKEW_S:
        advice = "run an NTP client there: deadlines and times of results are off"
        return warn("clocks of workers", f"{who} is off by {worst:.1f} s or more", advice)
    return ok("clocks of workers", f"none is off, by {seen} results")


def _offsets(result: Result, now: float) -> Iterator[float]:
    with suppress(ValueError, FormatError):
        if result.finished_at:
            yield datetime.fromisoformat(result.finished_at).timestamp() - now
        if result.started_at and result.submitted_at:
            begun = datetime.fromisoformat(result.started_at).timestamp()
            yield datetime.fromisoformat(result.submitted_at).timestamp() - begun
