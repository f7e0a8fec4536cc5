"""Examines versions, servers, clocks and limits, and gives advice. Sends nothing."""

from __future__ import annotations

import importlib.util
import platform
import resource
import sqlite3
import sys
import time
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe import __version__
from agentpipe.brokers import open_to_read
from agentpipe.brokers.capabilities import KeepsUndeliverable
from agentpipe.brokers.dead_letter import DeadFilter
from agentpipe.config.mcp_universe import VERSION
from agentpipe.connections.health import Examined, Finding, Status, fail, ok, warn
from agentpipe.connections.sqlite_address import is_absent
from agentpipe.core.distribution import pip_install
from agentpipe.core.redaction import without_password
from agentpipe.core.text import counted
from agentpipe.errors import ConfigError, StoreError, Unreachable
from agentpipe.operations.clocks import clocks_in_results, worker_clocks
from agentpipe.operations.precautions import pinned, transport
from agentpipe.sinks import open_sink
from agentpipe.sinks.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.statistics import WorkerSeen
    from agentpipe.core.result import Result
    from agentpipe.errors import AgentpipeError
    from agentpipe.settings import Settings
    from agentpipe.sinks.base import Sink

PACKAGES = ("dramatiq", "redis", "pika", "kafka-python", "APScheduler")
EXTRAS = {
    "llm": ("genai_prices", "mcp"),
    "metrics": ("prometheus_client",),
    "otel": ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"),
    "pandas": ("pandas",),
    "parquet": ("pyarrow",),
    "torch": ("torch",),
    "prime-rl": ("msgpack",),
    "trl": ("trl",),
    "web": ("jinja2", "starlette", "uvicorn"),
}
# Workers raise their soft limit to the hard one; each agent needs a few files and connections.
LIMITS = (
    ("ulimit -n", resource.RLIMIT_NOFILE, 4096, "open files and connections"),
    ("ulimit -u", resource.RLIMIT_NPROC, 4096, "threads and processes"),
)
RECENT_S = 3600.0
MAX_RECENT = 1_000
QUIET_S = 60.0


@dataclass(frozen=True, slots=True)
class Examination:
    """All findings.

    Attributes:
        unreachable: A server does not answer.
        misnamed: A URL is invalid.
    """

    findings: tuple[Finding, ...]
    unreachable: bool = False
    misnamed: bool = False

    def count(self, status: Status) -> int:
        """The number of findings with this status."""
        return sum(each.status == status for each in self.findings)


def examine(settings: Settings, environ: Mapping[str, str]) -> Examination:
    """Examine everything; one failure does not hide others."""
    wrong: list[AgentpipeError] = []
    findings = [
        *versions(),
        *extras(environ),
        *limits(),
        *pinned(environ),
        *_server("broker", settings.broker, lambda: _of_store(settings), wrong),
        *_server("sink", settings.sink, lambda: _of_sink(settings), wrong),
    ]
    kinds = [type(error) for error in wrong]
    return Examination(tuple(findings), Unreachable in kinds, ConfigError in kinds)


# This machine.


def versions() -> Iterator[Finding]:
    """Versions of Python, SQLite and the required packages."""
    yield ok("agentpipe", __version__)
    yield ok("Python", f"{platform.python_version()} at {sys.executable}")
    yield ok("SQLite", sqlite3.sqlite_version)
    for name in PACKAGES:
        try:
            yield ok(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield fail(name, "not installed", pip_install())


def extras(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Optional packages; a missing one is not a problem."""
    for extra, modules in EXTRAS.items():
        how = f"not installed; where it is needed: {pip_install(extra)}"
        yield ok(f"extra {extra}", "installed" if all(map(_is_there, modules)) else how)
    yield _mcp_universe(environ)


def _is_there(module: str) -> bool:
    """Whether a module is installed; a dotted name imports its parents, which may be missing."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _mcp_universe(environ: Mapping[str, str]) -> Finding:
    """The Python that the mcpuniverse engine uses; it is not started."""
    name, variable = "Python of mcpuniverse", "AGENTPIPE_MCPUNIVERSE_PYTHON"
    folders = (Path.cwd(), Path(sys.prefix).parent)
    places = [folder / ".venv-mcpuniverse" / "bin" / "python" for folder in folders]
    if named := environ.get(variable):
        places = [Path(named)]
    found = next((place for place in places if place.exists()), None)
    if found is None and named:
        return fail(name, f"none at {named}", f"correct {variable}, or unset it")
    if found is None:
        return ok(name, "none; if needed: make mcpuniverse")
    if not list(found.parent.parent.glob("lib/python*/site-packages/mcpuniverse")):
        advice = f"{found} -m pip install {VERSION.replace(' ', '==')}"
        return warn(name, f"{found} has no mcpuniverse package", advice)
    return ok(name, str(found))


def limits() -> Iterator[Finding]:
    """Process limits; workers raise the soft limit to the hard one."""
    for name, number, least, what in LIMITS:
        soft, hard = resource.getrlimit(number)
        more = "" if soft == hard else f", up to {_limit(hard)} for workers"
        found = f"{_limit(soft)}{more}"
        if hard != resource.RLIM_INFINITY and hard < least:
            advice = f"raise the hard limit of {what} to {least:,} or more where workers run"
            yield warn(name, found, advice)
        else:
            yield ok(name, found)


def _limit(number: int) -> str:
    return "unlimited" if number == resource.RLIM_INFINITY else f"{number:,}"


# The servers.


def _server(
    role: str, url: str, look: Callable[[], list[Finding]], wrong: list[AgentpipeError]
) -> Iterator[Finding]:
    """Whether the server answers, and its own findings, named after its role."""
    if is_absent(url):
        yield ok(role, f"{url}: there is none here yet; what sends or works makes it")
        return
    try:
        found = look()
    except (Unreachable, StoreError, ConfigError) as error:
        wrong.append(error)
        other = f"choose another {role} with --{role} URL or AGENTPIPE_{role.upper()}"
        yield fail(role, str(error), f"correct it, or {other}")
        yield from transport(role, url)
        return
    yield ok(role, f"{without_password(url)} answers")
    yield from transport(role, url)
    yield from (replace(each, name=f"{role} {each.name}") for each in found)


def _of_store(settings: Settings) -> list[Finding]:
    with closing(open_to_read(settings)) as store:
        return [*_examined(store), *_workers(store), *_undeliverable(store)]


def _of_sink(settings: Settings) -> list[Finding]:
    with closing(open_sink(settings)) as sink:
        return [*_examined(sink), *_clocks_in_results(sink)]


def _examined(opened: object) -> list[Finding]:
    return opened.examine() if isinstance(opened, Examined) else []


def _workers(store: Store) -> list[Finding]:
    before = time.time()
    try:
        workers = store.stats().workers
    except (Unreachable, StoreError) as error:  # Some stores depend on more than the broker.
        return [warn("workers", str(error), "`agentpipe status` fails as well until this works")]
    after = time.time()
    if not workers:
        return [ok("workers", "none is running")]
    clocks = worker_clocks(workers, (before + after) / 2, (after - before) / 2)
    return [workers_heard(workers), clocks]


def _undeliverable(store: Store) -> Iterator[Finding]:
    """Whether the sink has refused results because of their content."""
    if not isinstance(store, KeepsUndeliverable):
        return
    number = store.undeliverable.count_dead(DeadFilter())
    if not number:
        yield ok("undeliverable", "the sink has refused no result")
        return
    advice = "see `agentpipe dead list --undeliverable`; mend the sink, then `dead replay` them"
    yield warn("undeliverable", f"the sink refuses {counted(number, 'result')}", advice)


def workers_heard(workers: Sequence[WorkerSeen]) -> Finding:
    """Whether every worker has sent a heartbeat recently."""
    hosts = len({worker.host for worker in workers})
    quietest = max(workers, key=lambda worker: worker.seen_s)
    found = (
        f"{counted(len(workers), 'worker')} on {counted(hosts, 'machine')}, "
        f"each heard within {quietest.seen_s:.1f} s"
    )
    if quietest.seen_s > QUIET_S:
        advice = f"check whether {quietest.name} is alive: after its lease its tasks run elsewhere"
        return warn("workers", found, advice)
    return ok("workers", found)


def _clocks_in_results(sink: Sink) -> Iterator[Finding]:
    """Check clocks in the latest results; yields nothing if the sink keeps no past results."""
    with suppress(ConfigError):
        yield clocks_in_results(_recent(sink, time.time() - RECENT_S), time.time)


def _recent(sink: Sink, since: float) -> Iterator[Result]:
    reader = sink.follow(None, since)
    try:
        for number, result in enumerate(Stream(reader, timeout_s=0), 1):
            yield result
            if number == MAX_RECENT:
                return
    finally:
        reader.close()
