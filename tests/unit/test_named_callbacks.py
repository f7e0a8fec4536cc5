"""Messages that name their callbacks by actor: they are stored with the callbacks' names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dramatiq
import pytest
from dramatiq.middleware import GroupCallbacks
from dramatiq.rate_limits.backends import StubBackend

from agentpipe.brokers import open_store
from agentpipe.brokers.records import Queue
from agentpipe.sending.actor import AgentActor
from agentpipe.sending.broker import StoreBroker
from agentpipe.settings import Settings
from tests.unit.agents import CREW

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Dramatiq itself converts the first two.
OPTIONS = ["on_success", "on_failure", "on_retry_exhausted"]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[StoreBroker]:
    made = StoreBroker(open_store(Settings(broker=f"sqlite:///{tmp_path}/broker.db")), [])
    yield made
    made.close()


def calling(broker: StoreBroker, option: str) -> dramatiq.Message[Any]:
    work: Any = dramatiq.actor(broker=broker, actor_name="work")(print)
    save: Any = dramatiq.actor(broker=broker, actor_name="save")(print)
    made: dramatiq.Message[Any] = work.message_with_options(args=(), **{option: save})
    return made


@pytest.mark.parametrize("option", OPTIONS)
def test_a_message_names_an_actor_as_its_callback(broker: StoreBroker, option: str) -> None:
    assert broker.enqueue(calling(broker, option)).options == {option: "save"}


@pytest.mark.parametrize("option", OPTIONS)
def test_a_message_that_follows_an_agent_names_one(broker: StoreBroker, option: str) -> None:
    agent = AgentActor(CREW, CREW.agents[0], broker)
    broker.store.declare([Queue(agent.queue_name)])
    pipe: Any = dramatiq.pipeline([agent.message("q"), calling(broker, option)], broker=broker)
    first, _ = pipe.run().messages
    assert first.options["pipe_target"]["options"][option] == "save"


@pytest.mark.parametrize("option", OPTIONS)
def test_a_callback_of_a_group_names_one(broker: StoreBroker, option: str) -> None:
    broker.add_middleware(GroupCallbacks(StubBackend()))  # type: ignore[no-untyped-call]  # Dramatiq has no types
    ended = calling(broker, option)
    options = {"group_completion_uuid": "a", "group_completion_callbacks": [ended.asdict()]}
    broker.enqueue(member := ended.copy(options=options))
    found = member.options["group_completion_callbacks"]
    assert [each["options"][option] for each in found] == ["save"]
