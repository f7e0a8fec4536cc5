"""The implementations of the seams: to test a new one, add an entry here.

A ``url`` returns a new, empty address for each test, and can ask pytest's ``request`` for the
fixture of a server. Everything is opened by that address, as a user would.
The command line can name a third party's store or sink instead::

    pytest tests/conformance/test_store_*.py --store-url "toy:///{folder}/toy.json"
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from tests.conformance.pace import PACE
from tests.stores import can, open_any
from tests.support import slowness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from agentpipe.sinks.base import Sink
    from tests.stores import AnyStore


@dataclass(frozen=True, slots=True)
class Traits:
    """Abilities of an implementation; a test that needs a missing one is skipped.

    Attributes:
        remembers_ids: It knows the ids of unsettled and settled tasks.
        knows_depths: It can count tasks: ``stats`` is a full ledger.
        signals: ``wait`` blocks until something happens; otherwise it polls, which is the default.
        keeps_tallies: ``stats`` has the outcomes of each queue and the age of the outbox.
        shares_queues: Several workers can serve one queue at the same time.
        spares_neighbours: When several tasks with a limit of one crash die with their worker,
            none is blamed: each runs again, alone.
        scales: A claim costs about the same however many agents other workers serve.
        follows_sources: A file that is older than the one known to a worker or a later sender does
            not change the collection.
        shares_cooldowns: A cooldown covers the queues that its settlement names, and the store
            measures how long a task has waited in cooldowns.
        answers_at_once: A task that was just offered or freed can be claimed at once. Where the
            server pushes tasks, a claim that finds nothing is retried for a moment, and leases
            in the tests are longer. For a sink: a new reader gets existing records at once.
        keeps_run_results: It counts the outcomes of a run's tasks, not only the tasks.
        shares_records: Readers of one group share its records one by one. Otherwise each reader has
            a part of the stream to itself, and its unread records wait for it.
        remembers_reads: A group's new reader learns which tasks the previous reader read.
    """

    remembers_ids: bool = True
    knows_depths: bool = True
    signals: bool = True
    keeps_tallies: bool = True
    shares_queues: bool = True
    spares_neighbours: bool = True
    scales: bool = True
    follows_sources: bool = True
    shares_cooldowns: bool = True
    answers_at_once: bool = True
    keeps_run_results: bool = True
    shares_records: bool = True
    remembers_reads: bool = True


@dataclass(frozen=True, slots=True)
class Kind:
    """One implementation of a seam."""

    url: Callable[[pytest.FixtureRequest, Path], str]
    traits: Traits = Traits()


STORES = {
    "redis": Kind(
        lambda request, _: f"{request.getfixturevalue('redis_server').url}?prefix={unique('test')}"
    ),
    "sqlite": Kind(lambda _, folder: f"sqlite:///{folder / 'broker.db'}?synchronous=normal"),
}
PUSHED = Traits(
    remembers_ids=False,
    knows_depths=False,
    shares_queues=False,
    spares_neighbours=False,
    answers_at_once=False,
    keeps_run_results=False,
)
STORES["rabbitmq"] = Kind(
    lambda request, _: f"{request.getfixturevalue('rabbitmq_server').url}?prefix={unique('test')}",
    PUSHED,
)
SINKS = {
    "kafka": Kind(
        lambda request, _: (
            f"{request.getfixturevalue('kafka_server').url}/{unique('test')}?partitions=1"
        ),
        Traits(shares_records=False, answers_at_once=False),
    ),
    "rabbitmq": Kind(
        lambda request, _: (
            f"{request.getfixturevalue('rabbitmq_server').url}?topic={unique('test')}&stream=yes"
        ),
        Traits(remembers_reads=False, answers_at_once=False),
    ),
    "sqlite": Kind(lambda _, folder: f"sqlite:///{folder / 'results.db'}?synchronous=normal"),
}


SERVERS = {"kafka", "rabbitmq", "redis"}


def unique(noun: str) -> str:
    return f"{noun}-{uuid.uuid4().hex[:8]}"


class OpenStore(Protocol):
    """Opens another connection to the test's store; the fixture closes it."""

    def __call__(self, *, retention_s: float = 60.0) -> AnyStore: ...


class OpenSink(Protocol):
    """Opens another connection to the test's sink; the fixture closes it."""

    def __call__(self) -> Sink: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    for seam in ("store", "sink"):
        parser.addoption(
            f"--{seam}-url",
            help=f"test the {seam} behind this URL instead of ours; {{folder}} is empty for each "
            "test, {name} is unique",
        )
    parser.addoption(
        "--lacks", action="append", default=[], help="a trait that what is behind the URL has not"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(trait): skipped where the implementation lacks it")
    config.addinivalue_line("markers", "race: runs in the long tier on servers")
    config.addinivalue_line("markers", "capability(protocol): skipped where the store lacks it")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for seam, kinds in (("store", STORES), ("sink", SINKS)):
        if f"{seam}_settings" in metafunc.fixturenames:
            url = metafunc.config.getoption(f"{seam}_url", None)
            found = {"outside": _outside(url, metafunc.config.getoption("lacks"))} if url else kinds
            race = metafunc.definition.get_closest_marker("race") is not None
            params = [_param(name, kind, race=race) for name, kind in found.items()]
            metafunc.parametrize(f"{seam}_settings", params, indirect=True)


def _param(name: str, kind: Kind, *, race: bool) -> Any:
    marks = [pytest.mark.server] if name in SERVERS else []
    if marks and race:
        marks.append(pytest.mark.long)
    return pytest.param((name, kind), id=name, marks=marks)


def _outside(url: str, lacks: list[str]) -> Kind:
    def make(_: pytest.FixtureRequest, folder: Path) -> str:
        return url.format(folder=folder, name=unique("test"))

    return Kind(make, Traits(**dict.fromkeys(lacks, False)))


def _skip_without_traits(request: pytest.FixtureRequest, name: str, traits: Traits) -> None:
    for marker in request.node.iter_markers("needs"):
        for trait in marker.args:
            if not getattr(traits, trait):
                pytest.skip(f"{name}: not {trait}")


def _skip_without_capabilities(request: pytest.FixtureRequest, store: AnyStore) -> None:
    for marker in request.node.iter_markers("capability"):
        capability = marker.kwargs["protocol"]
        if not can(store, capability):
            pytest.skip(f"not {capability.__name__}")


@pytest.fixture
def store_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    name, kind = request.param
    _skip_without_traits(request, name, kind.traits)
    at_once = kind.traits.answers_at_once
    slow = slowness()
    PACE.lease_s, PACE.patience_s = (0.2, 0.0) if at_once else (2.0 * slow, 1.6 * slow)
    PACE.more_s, PACE.rest_s = (0.0, 0.01) if at_once else (0.4 * slow, 0.05)
    return Settings(broker=kind.url(request, tmp_path))


@pytest.fixture
def open_another(request: pytest.FixtureRequest, store_settings: Settings) -> Iterator[OpenStore]:
    opened: list[AnyStore] = []

    def open_one(*, retention_s: float = 60.0) -> AnyStore:
        opened.append(open_any(replace(store_settings, retention_s=retention_s)))
        _skip_without_capabilities(request, opened[-1])
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(open_another: OpenStore) -> AnyStore:
    return open_another()


@pytest.fixture
def sink_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    name, kind = request.param
    _skip_without_traits(request, name, kind.traits)
    PACE.quiet_s = 0.5 if kind.traits.answers_at_once else 4.0
    return Settings(sink=kind.url(request, tmp_path))


@pytest.fixture
def open_another_sink(sink_settings: Settings) -> Iterator[OpenSink]:
    opened: list[Sink] = []

    def open_one() -> Sink:
        opened.append(open_sink(sink_settings))
        return opened[-1]

    yield open_one
    for sink in opened:
        sink.close()


@pytest.fixture
def sink(open_another_sink: OpenSink) -> Sink:
    return open_another_sink()
