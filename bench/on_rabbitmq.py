"""Figures of the RabbitMQ store, beside Dramatiq on the same server."""

from __future__ import annotations

import json
import os
import tempfile
from base64 import b64encode
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from bench import asking, rivals, servers
from bench.figures import bulk_per_s, show, show_latencies, show_rounds, single_per_s
from bench.fleet import fleet
from brokers.server_rabbitmq import RabbitServer

ROUNDS = 3
BULK, SINGLE, RUNS = 10_000, 2_000, 8_000
CONCURRENCIES = (1, 16)  # Of each of eight agents.


def measure() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        RabbitServer(Path(folder) / "rabbitmq", environ=os.environ, management=True) as server,
    ):
        sending(server.url)
        running(server.url)
        servers.idle(server, servers.fresh(server.url), lambda: connections(server))
        found = rivals.latencies_ms(rivals.DRAMATIQ, server.url, 200, 0.05)
        show_latencies("    Dramatiq's, one queue", found)
        servers.killed(server.url)
    asking.measure("rabbitmq")


def sending(url: str) -> None:
    bulk, single, dramatiq = [], [], []
    for _ in range(ROUNDS):
        with fleet(8, "Instant", servers.fresh(url)) as scratch:
            bulk.append(bulk_per_s(scratch, BULK))
            single.append(single_per_s(scratch, SINGLE))
            scratch.run("purge", "bench")
        with rivals.bout(rivals.DRAMATIQ, url) as match:
            dramatiq.append(match.send(SINGLE))
            with match.working():
                match.noted(SINGLE)
    show_rounds("send_many, 1.5 KB, confirmed", bulk, dramatiq, "Dramatiq's unconfirmed")
    show_rounds("send, 1.5 KB, confirmed and bounded", single, dramatiq, "Dramatiq's unconfirmed")


def running(url: str) -> None:
    dramatiq: list[float] = []
    ours: dict[int, list[float]] = {concurrency: [] for concurrency in CONCURRENCIES}
    for _ in range(ROUNDS):
        for concurrency, speeds in ours.items():
            speeds.append(servers.delivered_per_s(servers.fresh(url), RUNS, concurrency))
        dramatiq.append(rivals.tasks_per_s(rivals.DRAMATIQ, url, RUNS))
    theirs = f"Dramatiq's ({rivals.DRAMATIQ.settings})"
    for concurrency, speeds in ours.items():
        show_rounds(f"instant agents, {8 * concurrency} at once", speeds, dramatiq, theirs)


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
