"""Idle workers end within seconds while their broker is away."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.integration.proxy import Proxy

if TYPE_CHECKING:
    from tests.integration.project import Project

# Without this, workers that cannot say goodbye would use up the grace.
GRACE_S, BOUND_S = 300, 60


@pytest.mark.every_broker(but=("sqlite",), long=("redis",))
@pytest.mark.parametrize(
    ("how", "kind", "code"), [("cut", signal.SIGINT, 130), ("refuse", signal.SIGTERM, 0)]
)
def test_an_idle_fleet_ends_although_its_broker_is_away(
    project: Project, broker_url: str, how: str, kind: signal.Signals, code: int
) -> None:
    port = urlsplit(broker_url).port
    assert port is not None
    with Proxy(port, odds=0.0) as proxy:
        project.environ["AGENTPIPE_BROKER"] = broker_url.replace(f":{port}", f":{proxy.port}")
        project.environ |= {"AGENTPIPE_GRACE_S": str(GRACE_S), "AGENTPIPE_LEASE_S": "30"}
        project.collection(number=4)
        fleet = project.work("--processes", "2", "--slots", "2").ready(2)
        getattr(proxy, how)()
        fleet.signal(kind)
        assert fleet.end(BOUND_S) == code
        proxy.mend()
    for word in ("blocks the event loop", "replaced", "Traceback"):
        assert word not in fleet.log
