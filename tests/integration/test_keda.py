"""KEDA's queries by the triggers of our manifests, to real servers while tasks wait and run."""

from __future__ import annotations

import json
import subprocess
from contextlib import closing, contextmanager
from shutil import which
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import urlopen

import pytest
import redis
import yaml
from prometheus_client.parser import text_string_to_metric_families

from brokers.ports import HOST, free_port
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.project import Project

PATIENCE_S = 60.0
# The command by which KEDA's scaler measures a key of each type.
COUNTS = {"hash": "HLEN", "list": "LLEN", "set": "SCARD", "zset": "ZCARD", "none": "LLEN"}


@pytest.fixture
def busy(project: Project) -> Project:
    """``crew`` has one running and three waiting tasks, ``other`` has two waiting ones."""
    for name in ("crew", "other"):
        project.collection(name, number=1)
    project.work("--processes", "1").ready(1)
    project.send("wait-for-file end", to="crew")
    wait_until(lambda: len(project.journal("started")) == 1, PATIENCE_S, "one runs")
    project.ok("pause", "crew", "other")
    project.ok("send", "crew", "--file", project.tasks("echo", "echo", "echo", name="crew.jsonl"))
    project.ok("send", "other", "--file", project.tasks("echo", "echo", name="other.jsonl"))
    return project


def trigger(project: Project, kind: str, address: str, collection: str = "crew") -> dict[str, Any]:
    """The metadata of the ScaledObject's trigger, from the command's output."""
    options = ("--scaler", "keda", "--scaler-trigger", kind, "--scaler-address", address)
    printed = project.ok("deploy", "kubernetes", "--image", "agents:1", *options).out
    scaled = [it for it in yaml.safe_load_all(printed) if it["kind"] == "ScaledObject"]
    (found,) = (it for it in scaled if it["metadata"]["name"] == f"agentpipe-{collection}")
    (asked,) = found["spec"]["triggers"]
    assert asked["type"] == kind
    return dict(asked["metadata"])


def end(project: Project) -> None:
    (project.folder / "end").touch()
    project.ok("resume", "crew", "other")
    project.until(delivered=6, outbox=0, running=0)


@contextmanager
def exporter(project: Project) -> Iterator[str]:
    process = project.start("metrics", "--port", "0")
    assert process.stdout is not None
    try:
        yield process.stdout.readline().rpartition(" ")[2].strip()
    finally:
        process.kill()
        process.communicate()


def length(metadata: dict[str, str]) -> int:
    """The queue length as KEDA's Redis scaler counts it."""
    host, _, port = metadata["address"].rpartition(":")
    database = int(metadata["databaseIndex"])
    client: Any = redis.Redis(host, int(port), db=database)
    with closing(client):
        name = metadata["listName"]
        return int(client.execute_command(COUNTS[client.type(name).decode()], name))


@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)
@pytest.mark.parametrize("database", [pytest.param("0", marks=pytest.mark.long), "3"])
def test_redis_counts_all_unsettled_tasks_of_the_broker(project: Project, database: str) -> None:
    parts = urlsplit(project.environ["AGENTPIPE_BROKER"])
    project.environ["AGENTPIPE_BROKER"] = parts._replace(path=f"/{database}").geturl()
    for name in ("crew", "other"):
        project.collection(name, number=1)
    metadata = trigger(project, "redis", f"{parts.hostname}:{parts.port}")
    assert length(metadata) == 0
    project.send("wait-for-file end", "echo", "echo", to="crew")
    project.send({"task_id": "b-1", "question": "echo"}, to="other")
    assert length(metadata) == 4
    project.work("--processes", "1")
    project.until(running=1, delivered=1)
    assert length(metadata) == 3
    (project.folder / "end").touch()
    project.until(delivered=4, running=0)
    assert length(metadata) == 0


def value(metadata: dict[str, str]) -> float:
    """The value as KEDA's metrics-api scaler finds it: the first sample with all labels."""
    assert metadata["format"] == "prometheus"
    (wanted,) = next(
        iter(text_string_to_metric_families(f"{metadata['valueLocation']} 0\n"))
    ).samples
    with urlopen(metadata["url"], timeout=30) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        samples = [it for family in families for it in family.samples if it.name == wanted.name]
    return next(it.value for it in samples if wanted.labels.items() <= it.labels.items())


@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_the_exporter_gives_what_waits_of_the_collection(busy: Project) -> None:
    with exporter(busy) as url:
        metadata = trigger(busy, "metrics-api", url)
        wait_until(lambda: value(metadata) == 3, PATIENCE_S, "three of crew wait")
        assert value(trigger(busy, "metrics-api", url, "other")) == 2
        end(busy)
        wait_until(lambda: value(metadata) == 0, PATIENCE_S, "none waits")


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    """The address of a Prometheus that scrapes the target."""
    scrape = {"job_name": "a", "static_configs": [{"targets": [urlsplit(target).netloc]}]}
    config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"{HOST}:{free_port()}"
    command = ["prometheus", f"--config.file={folder}/prometheus.yml"]
    command += [f"--storage.tsdb.path={folder}/tsdb", f"--web.listen-address={address}"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield f"http://{address}"
        finally:
            process.kill()


def queried(metadata: dict[str, str]) -> float | None:
    """The value as KEDA's Prometheus scaler queries it; None while there is no sample."""
    asked = urlencode({"query": metadata["query"]})
    try:
        with urlopen(f"{metadata['serverAddress']}/api/v1/query?{asked}", timeout=30) as answer:
            found = json.load(answer)["data"]["result"]
    except URLError:  # Prometheus is starting.
        return None
    assert len(found) <= 1  # KEDA refuses several.
    return float(found[0]["value"][1]) if found else None


@pytest.mark.long
@pytest.mark.skipif(which("prometheus") is None, reason="prometheus is not installed")
@pytest.mark.every_broker
def test_prometheus_counts_what_waits_and_runs_of_the_collection(busy: Project) -> None:
    with exporter(busy) as url, prometheus(busy.folder, url) as address:
        metadata = trigger(busy, "prometheus", address)
        wait_until(lambda: queried(metadata) == 4, PATIENCE_S, "four of crew wait or run")
        assert queried(trigger(busy, "prometheus", address, "other")) == 2
        end(busy)
        wait_until(lambda: queried(metadata) == 0, PATIENCE_S, "none is left")
