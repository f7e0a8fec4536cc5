"""Figures of the RabbitMQ store, beside Dramatiq on the same server."""

from __future__ import annotations

import json
import os
import tempfile
from base64 import b64encode
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from bench import asking, crowds, rivals, servers
from bench.figures import bulk_per_s, show, show_latencies, show_rounds, single_per_s
from bench.fleet import fleet
from bench.recording import attempt
from brokers.server_rabbitmq import RabbitServer

ROUNDS = 3
BULK, SINGLE, RUNS = 10_000, 1_000, 4_000
CONCURRENCIES = (1, 16)  # Of each of eight agents.
FIELD = (rivals.DRAMATIQ, rivals.DRAMATIQ_CONFIRMED)


def measure() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        RabbitServer(Path(folder) / "rabbitmq", environ=os.environ, management=True) as server,
    ):
        attempt("sending", sending, server.url)
        attempt("instant agents", running, server.url)
        attempt("agents waiting", crowds.turns, partial(servers.fresh, server.url))
        attempt("1,000 queues", idle, server)
        attempt("    Dramatiq's, one queue", waiting, server.url)
        servers.killed(server.url)
    attempt("why", asking.measure, "rabbitmq")


def idle(server: RabbitServer) -> None:
    servers.idle(server, servers.fresh(server.url), lambda: connections(server))


def waiting(url: str) -> None:
    found = rivals.latencies_ms(rivals.DRAMATIQ, url, 200, 0.05)
    show_latencies("    Dramatiq's, one queue", found)


def sending(url: str) -> None:
    bulk, single = [], []
    theirs: tuple[list[float], ...] = tuple([] for _ in FIELD)
    for _ in range(ROUNDS):
        with fleet(8, "Instant", servers.fresh(url)) as scratch:
            bulk.append(bulk_per_s(scratch, BULK))
            single.append(single_per_s(scratch, SINGLE))
            scratch.run("purge", "bench")
        for rival, speeds in zip(FIELD, theirs, strict=True):
            with rivals.bout(rival, url) as match:
                speeds.append(match.send(SINGLE))
                with match.working():
                    match.noted(SINGLE)
    for rival, speeds in zip(FIELD, theirs, strict=True):
        noun = f"{rival.name}, one by one,"
        show_rounds("send_many, 1.5 KB, confirmed", bulk, speeds, noun)
        show_rounds("send, 1.5 KB, confirmed and bounded", single, speeds, noun)


def running(url: str) -> None:
    ours: dict[int, list[float]] = {concurrency: [] for concurrency in CONCURRENCIES}
    theirs: tuple[list[float], ...] = tuple([] for _ in FIELD)
    for _ in range(ROUNDS):
        for concurrency, speeds in ours.items():
            speeds.append(servers.delivered_per_s(servers.fresh(url), RUNS, concurrency))
        for rival, others in zip(FIELD, theirs, strict=True):
            others.append(rivals.tasks_per_s(rival, url, RUNS))
    for concurrency, speeds in ours.items():
        for rival, others in zip(FIELD, theirs, strict=True):
            noun = f"{rival.name} ({rival.settings})"
            show_rounds(f"instant agents, {8 * concurrency} at once", speeds, others, noun)


def connections(server: RabbitServer) -> None:
    totals = _management(server, "overview")["object_totals"]
    held = f"{totals['channels']} channels, {totals['consumers']} consumers"
    show("  connections, the supervisor's too", str(totals["connections"]), held)


def _management(server: RabbitServer, what: str) -> Any:
    parts = urlsplit(server.management_url)
    login = b64encode(f"{parts.username}:{parts.password}".encode()).decode()
    address = f"http://{parts.hostname}:{parts.port}/api/{what}"
    with urlopen(Request(address, headers={"Authorization": f"Basic {login}"})) as response:
        return json.load(response)
