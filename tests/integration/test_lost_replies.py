"""Lost broker replies: no task is stuck, lost or run twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from agentpipe.config.collection import load
from agentpipe.sending.dispatcher import Dispatcher
from agentpipe.settings import Settings
from tests.integration.proxy import Proxy

if TYPE_CHECKING:
    from tests.integration.project import Project

LOST, BATCH = 100, 20


@pytest.mark.long
@pytest.mark.parametrize(
    ("broker_url", "odds"), [("redis", 0.05), ("rabbitmq", 0.01)], indirect=["broker_url"]
)
def test_a_hundred_lost_replies_do_no_harm(project: Project, broker_url: str, odds: float) -> None:
    project.environ["AGENTPIPE_LEASE_S"] = "20"
    project.collection(number=4, max_queue_size=BATCH, max_crashes=LOST)
    port = urlsplit(broker_url).port
    assert port is not None
    with Proxy(port, odds=odds) as proxy:
        through = broker_url.replace(f":{port}/", f":{proxy.port}/")
        fleet = project.work("--processes", "2", env={"AGENTPIPE_BROKER": through}).ready(2)
        settings = replace(Settings.from_env(project.environ), broker=through)
        dispatcher = Dispatcher.open(load(project.folder / "collection.yaml"), settings)
        proxy.may_lose = LOST
        sent = _send_until_all_are_lost(dispatcher, proxy)
        dispatcher.close()
        project.until(delivered=len(sent), waiting=0, delayed=0, running=0, outbox=0)
        assert fleet.stop() == 0
    assert "Traceback" not in fleet.log
    results = project.by_id()
    assert results.keys() == sent
    assert {result["outcome"] for result in results.values()} == {"ok"}
    runs = Counter(entry["task_id"] for entry in project.journal("started"))
    assert runs.keys() == sent
    if project.settles_in_one_step:
        assert set(runs.values()) == {1}
        assert project.stats()["accepted"] == len(sent)


def _send_until_all_are_lost(dispatcher: Dispatcher, proxy: Proxy) -> set[str]:
    """Send batches of tasks through the proxy until it has lost all replies; return their ids."""
    sent: set[str] = set()
    while proxy.may_lose:
        batch = [f"task-{len(sent) + number}" for number in range(BATCH)]
        tasks = [{"task_id": task_id, "question": "sleep 0.05"} for task_id in batch]
        accepted = dispatcher.send_many("toys", tasks, on_full="wait")
        assert {*accepted.task_ids, *accepted.duplicate_ids} == set(batch)
        sent |= set(batch)
    return sent
