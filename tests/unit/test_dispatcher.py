from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.records import Queue
from agentpipe.brokers.sqlite import SqliteStore
from agentpipe.errors import ConfigError, TaskError, Unreachable
from agentpipe.sending.batches import BATCH
from agentpipe.sending.dispatcher import Dispatcher
from agentpipe.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agentpipe.brokers.records import Admission, Offer


class FlakyStore(SqliteStore):
    """Unreachable for the first three offers; it stores the third, but the answer is lost."""

    away = 3

    def _offer(self, target: str, offers: Sequence[Offer], **how: Any) -> Admission:
        self.away -= 1
        if self.away > 0:
            raise Unreachable("sqlite:///away: gone")
        admission = super()._offer(target, offers, **how)
        if self.away == 0:
            raise Unreachable("sqlite:///away: gone")
        return admission


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FlakyStore]:
    url = f"sqlite:///{tmp_path}/broker.db?synchronous=normal"
    made = FlakyStore(url, Settings(broker=url))
    made.declare([Queue("toys_0", "toys")])
    yield made
    made.close()


def tasks(number: int) -> list[dict[str, Any]]:
    return [{"task_id": f"t{n}", "question": "hi"} for n in range(number)]


def test_who_waits_for_room_waits_for_a_store_that_is_away_and_sends_nothing_twice(
    store: FlakyStore, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        sent = Dispatcher(store).send_many("toys", tasks(5), on_full="wait")
    assert set(sent.task_ids + sent.duplicate_ids) == {f"t{n}" for n in range(5)}
    assert store.stats().accepted == 5
    assert [record.message for record in caplog.records] == [
        "the broker does not answer, sending waits for it: sqlite:///away: gone",
        "the broker answers again, after 3 tries",
    ]


def test_who_does_not_is_told_at_once(store: FlakyStore) -> None:
    with pytest.raises(Unreachable):
        Dispatcher(store).send_many("toys", tasks(5))
    assert store.away == 2


@pytest.mark.parametrize("on_full", ["Wait", "", None, True])
def test_a_misspelt_way_to_treat_full_queues_sends_nothing(store: FlakyStore, on_full: Any) -> None:
    dispatcher = Dispatcher(store)
    with pytest.raises(ConfigError, match=r"^on_full: expected 'refuse' or 'wait', not "):
        dispatcher.send_many("toys", ["q"], on_full=on_full)
    with pytest.raises(ConfigError, match=r"^on_full: expected 'refuse' or 'wait', not "):
        dispatcher.send_groups("toys", ["q"], n=2, on_full=on_full)
    assert store.stats().accepted == 0


def test_an_invalid_task_costs_its_own_batch_only(store: FlakyStore) -> None:
    store.away = -1
    store.declare([Queue("toys_0", "toys", 3 * BATCH)])
    given = [*tasks(2 * BATCH + 1), {"question": 7}]
    batches = Dispatcher(store).send_batches("toys", given)
    assert [len(next(batches).task_ids) for _ in range(2)] == [BATCH, BATCH]
    with pytest.raises(TaskError, match="question"):
        next(batches)
    assert store.stats().accepted == 2 * BATCH


def test_what_is_refused_of_a_batch_goes_before_the_next_one(store: FlakyStore) -> None:
    store.away = -1
    store.declare([Queue("toys_0", "toys", BATCH - 1)])
    batches = Dispatcher(store).send_batches("toys", tasks(2 * BATCH), on_full="wait")
    assert next(batches).task_ids == tuple(f"t{n}" for n in range(BATCH - 1))
    store.declare([Queue("toys_0", "toys", 2 * BATCH)])
    assert next(batches).task_ids == (f"t{BATCH - 1}",)
    assert next(batches).task_ids == tuple(f"t{n}" for n in range(BATCH, 2 * BATCH))


@pytest.mark.parametrize("path", ["collection.yaml", Path("collection.yaml")])
def test_a_path_in_place_of_collections_is_refused(path: Any) -> None:
    with pytest.raises(ConfigError, match=r"load\('collection.yaml'\)"):
        Dispatcher.open(path, Settings())
