"""The exporter's answers, whatever a scraper sends and whatever the broker does."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agentpipe.errors import AgentpipeError
from agentpipe.metrics.server import app_of
from agentpipe.metrics.snapshots import SnapshotThread
from tests.support import wait_until
from tests.unit.test_metric_families import DEPTH, STATS

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.brokers.statistics import Stats


def ask(
    path: str = "/metrics", method: str = "GET", stats: Stats | None = STATS, **headers: str
) -> tuple[str, dict[str, str], str]:
    """Status, headers and body of the answer."""
    place, _, query = path.partition("?")
    heard: dict[str, Any] = {}

    def start(status: str, fields: list[tuple[str, str]]) -> None:
        heard.update(status=status, headers=dict(fields))

    environ = {"REQUEST_METHOD": method, "PATH_INFO": place, "QUERY_STRING": query}
    body = b"".join(app_of(lambda: stats)({**environ, **headers}, start))
    return heard["status"], heard["headers"], body.decode()


def names_in(text: str) -> set[str]:
    families = text_string_to_metric_families(text)
    return {sample.name for each in families for sample in each.samples}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("name[]=agentpipe_up", {"agentpipe_up"}),
        (
            "name%5B%5D=agentpipe_workers&name[]=agentpipe_tasks_total",
            {"agentpipe_workers", "agentpipe_tasks_total"},
        ),
        ("name[]=agentpipe_run_duration_seconds_sum", {"agentpipe_run_duration_seconds_sum"}),
        ("name[]=none_such", set()),
    ],
)
def test_a_scraper_may_ask_for_some_metrics(query: str, expected: set[str]) -> None:
    status, _, text = ask(f"/metrics?{query}")
    assert (status, names_in(text)) == ("200 OK", expected)


@pytest.mark.parametrize("query", ["other=1", "name[]=", "%ff%fe", "a" * 60_000, "&&=&;"])
def test_other_parameters_change_nothing(query: str) -> None:
    assert ask(f"/metrics?{query}") == ask()


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=abc",
        "text/plain;version=;escaping=x",
        "application/openmetrics-text;version=1.a",
        ";;,=,q=",
        "\u00ff",
    ],
)
def test_a_malformed_header_gets_metrics_all_the_same(accept: str) -> None:
    status, _, text = ask(HTTP_ACCEPT=accept)
    assert status == "200 OK"
    assert "agentpipe_up 1.0" in text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "GETX"])
@pytest.mark.parametrize("path", ["/", "/metrics", "/other"])
def test_it_only_reads(method: str, path: str) -> None:
    status, headers, _ = ask(path, method)
    assert (status[:3], headers["Allow"]) == ("405", "GET, HEAD")


@pytest.mark.parametrize("path", ["/", "/metrics", "/other"])
def test_a_head_is_a_get_without_a_body(path: str) -> None:
    assert ask(path, "HEAD") == (*ask(path)[:2], "")


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text"])
@pytest.mark.parametrize(
    "name", ['a"b', "{a}", "a\nb", "a\\", "\u00e9\u4e2d\U0001f600", "\u202ea", "\x00", "a\ud800b"]
)
def test_any_name_is_a_label(accept: str, name: str) -> None:
    measures = dict.fromkeys((name,), next(iter((STATS.measures or {}).values())))
    stats = replace(STATS, queues=(replace(DEPTH, collection=name),), measures=measures)
    status, _, text = ask(stats=stats, HTTP_ACCEPT=accept)
    assert status == "200 OK"
    if not accept:
        labels = {
            sample.labels["collection"]
            for each in text_string_to_metric_families(text)
            for sample in each.samples
            if "collection" in sample.labels
        }
        assert labels == {name.replace("\ud800", "\ufffd")}


class Broker:
    """A store whose next snapshots call the given functions."""

    def __init__(self, *does: Callable[[], Stats]) -> None:
        self._does = list(does)

    def stats(self) -> Stats:
        return self._does.pop(0)()


def snapshots_of(*does: Callable[[], Stats]) -> tuple[SnapshotThread, list[str]]:
    said: list[str] = []
    store: Any = Broker(*does)
    made = SnapshotThread(lambda: store, said.append)
    made.start()
    return made, said


def failing(error: Exception) -> Callable[[], Stats]:
    def fail() -> Stats:
        raise error

    return fail


def test_a_failure_of_any_kind_is_no_end() -> None:
    secret = "canary-77ab"
    made, said = snapshots_of(
        failing(KeyError(secret)), failing(AgentpipeError("away")), lambda: STATS
    )
    assert made.latest() is None
    assert made.latest() is None
    assert made.latest() is STATS
    assert [it.partition(":")[0] for it in said] == [
        "broker unreachable",
        "the broker answers again",
    ]
    assert secret not in "".join(said)


def test_a_broker_that_hangs_holds_no_scrape_for_longer_than_its_patience() -> None:
    released = threading.Event()

    def hang() -> Stats:
        released.wait(60)
        return STATS

    made, _ = snapshots_of(hang, lambda: STATS)
    scrapes = [threading.Thread(target=made.latest, args=(0.05,), daemon=True) for _ in range(8)]
    for each in scrapes:
        each.start()
    for each in scrapes:
        each.join(10)
    assert not any(each.is_alive() for each in scrapes)
    released.set()
    wait_until(lambda: made.latest(5.0) is STATS, 10, "it answers again")
