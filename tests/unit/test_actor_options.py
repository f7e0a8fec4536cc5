"""Options that plain Dramatiq actors and messages can set on our broker, and refused ones."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dramatiq
import orjson
import pytest
from dramatiq.brokers.stub import StubBroker
from dramatiq.errors import QueueNotFound
from dramatiq.middleware import (
    AgeLimit,
    AsyncIO,
    Callbacks,
    CurrentMessage,
    Pipelines,
    Retries,
    ShutdownNotifications,
    TimeLimit,
)

from agentpipe.brokers import open_store
from agentpipe.errors import AgentpipeError, ConfigError, OptionError, TaskError
from agentpipe.sending.actor import AgentActor
from agentpipe.sending.broker import StoreBroker
from agentpipe.sending.dispatcher import Dispatcher
from agentpipe.sending.plain_queues import CONCURRENCY, MAX_QUEUE_SIZE, ActorOptions
from agentpipe.settings import Settings
from agentpipe.worker.outcomes.follow_ups import of_success
from tests.unit.agents import CREW

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[StoreBroker]:
    settings = Settings(broker=f"sqlite:///{tmp_path}/broker.db?synchronous=normal")
    store = open_store(settings)
    made = StoreBroker(store, [Dispatcher(store)])
    yield made
    made.close()


def work(*_: Any) -> None:
    """Do nothing."""


def actor(broker: dramatiq.Broker, name: str = "work", **options: Any) -> Any:
    return dramatiq.actor(broker=broker, actor_name=name, **options)(work)


def limits(broker: StoreBroker, queue: str) -> tuple[int, int]:
    (depth,) = [it for it in broker.store.stats().queues if it.queue == queue]
    return depth.limit, depth.concurrency


class Abortable(dramatiq.Middleware):
    """Stands in for the middleware of dramatiq-abort."""

    __module__ = "dramatiq_abort.middleware"


class OwnTimeLimit(TimeLimit):
    """A user's subclass of a refused middleware."""


@pytest.mark.parametrize(
    ("middleware", "instead"),
    [
        (TimeLimit(), "time_limit of actors"),
        (OwnTimeLimit(), "time_limit of actors"),
        (ShutdownNotifications(), "AGENTPIPE_GRACE_S"),
        (Retries(), "max_retries, min_backoff, max_backoff, retry_when and throws"),
        (Abortable(), "agentpipe cancel"),
        (AsyncIO(), "async actors run without it"),
        (AgeLimit(), "max_age of actors"),
        (Callbacks(), "on_success and on_failure"),
        (Pipelines(), "pipe_target"),
    ],
    ids=lambda it: type(it).__name__ if isinstance(it, dramatiq.Middleware) else "",
)
def test_middleware_that_breaks_a_worker_is_refused_with_what_to_use_instead(
    broker: StoreBroker, middleware: dramatiq.Middleware, instead: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        broker.add_middleware(middleware)
    assert type(middleware).__name__ in str(refused.value)
    assert instead in str(refused.value)
    assert middleware not in broker.middleware


def test_other_middleware_is_taken(broker: StoreBroker) -> None:
    broker.add_middleware(CurrentMessage())
    assert any(isinstance(it, CurrentMessage) for it in broker.middleware)


def test_middleware_that_comes_after_the_boot_of_the_process_hears_of_it(
    broker: StoreBroker,
) -> None:
    booted = []

    class Metrics(dramatiq.Middleware):
        def after_process_boot(self, broker: dramatiq.Broker) -> None:
            booted.append(broker)

    broker.add_middleware(Metrics())
    broker.emit_after("process_boot")
    assert booted == [broker]
    broker.add_middleware(Metrics())
    assert booted == [broker, broker]


GOOD: dict[str, Any] = {
    "max_retries": 0,
    "min_backoff": 10,
    "max_backoff": 20.5,
    "time_limit": 1_000,
    "max_age": 5_000,
    "on_success": "other",
    "on_failure": None,
    "on_retry_exhausted": "other",
    "pipe_ignore": True,
}
WRONG: dict[str, Any] = {
    "max_retries": -1,
    "min_backoff": "10",
    "max_backoff": float("nan"),
    "time_limit": 0,
    "max_age": True,
    "on_retry_exhausted": 7,
    "pipe_ignore": "yes",
}
OF_ACTORS_ONLY: dict[str, tuple[Any, Any]] = {
    "retry_when": (lambda *_: True, "never"),
    "throws": ((ValueError, KeyError), "ValueError"),
    "max_queue_size": (3, 0),
    "concurrency": (3, True),
}


@pytest.mark.parametrize("name", GOOD)
def test_an_option_is_taken_where_it_is_declared_and_where_it_is_sent(
    broker: StoreBroker, name: str
) -> None:
    assert actor(broker, **{name: GOOD[name]}).options[name] == GOOD[name]
    actor(broker, "other").send_with_options(**{name: GOOD[name]})


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_refused_where_it_is_declared_and_where_it_is_sent(
    broker: StoreBroker, name: str
) -> None:
    with pytest.raises(OptionError, match=f"actor bad: {name}: expected "):
        actor(broker, "bad", **{name: WRONG[name]})
    assert "bad" not in broker.actors
    with pytest.raises(OptionError, match=f"message to good: {name}: expected "):
        actor(broker, "good").send_with_options(**{name: WRONG[name]})
    assert broker.store.stats().accepted == 0


@pytest.mark.parametrize("name", OF_ACTORS_ONLY)
def test_what_only_an_actor_can_have_is_refused_of_a_message(
    broker: StoreBroker, name: str
) -> None:
    good, wrong = OF_ACTORS_ONLY[name]
    with pytest.raises(OptionError, match=f"actor bad: {name}: expected "):
        actor(broker, "bad", **{name: wrong})
    with pytest.raises(OptionError, match=f"{name} belongs to the actor"):
        actor(broker, "good", **{name: good}).send_with_options(**{name: good})


def test_an_unknown_option_is_refused_with_the_nearest_name(broker: StoreBroker) -> None:
    with pytest.raises(ValueError, match="max_retrys"):
        actor(broker, "bad", max_retrys=1)
    good = actor(broker, "good")
    with pytest.raises(OptionError, match="did you mean 'max_retries'"):
        good.send_with_options(max_retrys=1)
    with pytest.raises(OptionError, match="an option of a middleware needs that middleware"):
        good.send_with_options(store_results=True)


def test_an_option_of_a_middleware_is_taken_where_that_is_installed(broker: StoreBroker) -> None:
    class Tenants(dramatiq.Middleware):
        @property
        def actor_options(self) -> set[str]:
            return {"tenant"}

    broker.add_middleware(Tenants())
    actor(broker, tenant="ours").send_with_options(tenant="theirs")
    assert broker.store.stats().accepted == 1


def test_options_of_messages_that_follow_are_checked_at_once(broker: StoreBroker) -> None:
    first = actor(broker)
    wrong = first.message_with_options(max_retrys=1)
    pipe: Any = dramatiq.pipeline([first.message(), wrong], broker=broker)
    with pytest.raises(OptionError, match="did you mean 'max_retries'"):
        pipe.run()


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("max_retries", "max_retries of its collection"),
        ("time_limit", "time_limit of its collection, in seconds"),
        ("max_age", "deadline of the task"),
    ],
)
def test_options_that_agents_lack_name_what_they_have(
    broker: StoreBroker, name: str, instead: str
) -> None:
    agent: Any = AgentActor(CREW, CREW.agents[0], broker)
    with pytest.raises(OptionError, match=f"{name} is not for agents: use {instead}"):
        agent.send_with_options(args=("hi",), **{name: 1})


def test_a_plain_queue_has_a_wide_bound_and_no_limit_of_its_own(broker: StoreBroker) -> None:
    actor(broker)
    assert limits(broker, "default") == (MAX_QUEUE_SIZE, CONCURRENCY)


def test_actors_of_a_queue_share_the_limits_that_one_of_them_has(broker: StoreBroker) -> None:
    actor(broker, "one", max_queue_size=5)
    actor(broker, "two", concurrency=2)
    actor(broker, "three")
    assert limits(broker, "default") == (5, 2)
    with pytest.raises(OptionError, match="actor four: max_queue_size: 6, but actor one"):
        actor(broker, "four", max_queue_size=6)


def test_a_plain_actor_cannot_take_the_queue_of_an_agent(broker: StoreBroker) -> None:
    agent = AgentActor(CREW, CREW.agents[0], broker)
    with pytest.raises(OptionError, match="is an agent's: give it another queue_name"):
        actor(broker, queue_name=agent.queue_name)


@pytest.mark.parametrize("option", ["on_success", "on_failure", "on_retry_exhausted"])
@pytest.mark.parametrize("by_name", [True, False])
def test_an_agent_as_a_callback_is_refused_where_it_is_declared_and_where_it_is_sent(
    broker: StoreBroker, option: str, *, by_name: bool
) -> None:
    agent = AgentActor(CREW, CREW.agents[0], broker)
    callback: dict[str, Any] = {option: agent.actor_name if by_name else agent}
    said = f"{option}: '{agent.actor_name}' is an agent, which takes a task: use a pipeline"
    with pytest.raises(OptionError, match=f"actor one: {said}"):
        actor(broker, "one", **callback)
    with pytest.raises(OptionError, match=f"message to two: {said}"):
        actor(broker, "two").send_with_options(**callback)
    if option != "on_retry_exhausted":  # Agents do not have it at all.
        with pytest.raises(OptionError, match=f"message to {agent.actor_name}: {said}"):
            agent.send_with_options(args=("q",), **callback)


@pytest.mark.parametrize("option", ["on_success", "on_failure", "on_retry_exhausted"])
def test_a_callback_that_an_actor_names_before_the_agent_exists_is_refused_where_it_is_sent(
    broker: StoreBroker, option: str
) -> None:
    early: Any = actor(broker, "early", **{option: CREW.agents[0].queue})
    early.send()
    agent = AgentActor(CREW, CREW.agents[0], broker)
    with pytest.raises(OptionError, match=f"actor early: {option}: '{agent.actor_name}' is an"):
        early.send()


def test_a_pipeline_whose_message_calls_an_agent_back_is_refused(broker: StoreBroker) -> None:
    agent, save = AgentActor(CREW, CREW.agents[0], broker), actor(broker)
    after = save.message_with_options(on_success=agent.actor_name)
    pipe: Any = dramatiq.pipeline([save.message(), after], broker=broker)
    with pytest.raises(OptionError, match="which takes a task: use a pipeline"):
        pipe.run()


def test_a_message_to_a_queue_that_was_never_declared_is_refused(broker: StoreBroker) -> None:
    lost: dramatiq.Message[Any] = dramatiq.Message(
        queue_name="nowhere", actor_name="nobody", args=(), kwargs={}, options={}
    )
    with pytest.raises(QueueNotFound):
        broker.enqueue(lost)


def test_an_agent_gets_its_question_or_an_answer_from_its_pipeline_not_both(
    broker: StoreBroker,
) -> None:
    agent = AgentActor(CREW, CREW.agents[0], broker)
    asked = agent.message("mine?")
    with pytest.raises(TaskError, match="leave the question out"):
        agent.task_of(asked.copy(args=(*asked.args, "theirs?")))
    waiting = agent.message(metadata={"mine": 1})
    fields = agent.task_of(waiting.copy(args=("theirs?",)))
    assert (fields["question"], fields["metadata"]) == ("theirs?", {"mine": 1})
    assert fields["task_id"] == waiting.message_id
    assert agent.task_of(waiting.copy(args=({"question": "q", "seed": 3},)))["seed"] == 3
    assert agent.task_of(waiting.copy(args=([1, 2],)))["question"] == "[1,2]"


FORGED = {"schema": 1, "question": "q", "sampling": {"n": 9}}


@pytest.mark.parametrize("more", [{}, {"answered": {"answer": "x"}}, {"dramatiq": {"a": 1}}])
def test_an_answer_that_looks_like_a_checked_task_is_checked_like_any(
    broker: StoreBroker, more: dict[str, Any]
) -> None:
    agent = AgentActor(CREW, CREW.agents[0], broker)
    options = {"pipe_target": agent.message().asdict()}
    claim = SimpleNamespace(submitted_at=1.0)
    ended: Any = SimpleNamespace(options=options, actor_name="a", message_id="m", claim=claim)
    said = "only agentpipe sets it" if more else "sampling: a task cannot set 'n'"
    with pytest.raises(AgentpipeError, match=said):
        of_success(broker, ended, {**FORGED, **more})
    (sent,) = of_success(broker, ended, {"schema": 1, "question": "q"})
    assert orjson.loads(sent[1].payload)["question"] == "q"


def test_a_stub_broker_takes_our_options_from_a_middleware() -> None:
    stub = StubBroker(middleware=[])
    with pytest.raises(ValueError, match="max_queue_size"):
        actor(stub, max_queue_size=3)
    stub.add_middleware(ActorOptions())
    assert actor(stub, "one", max_queue_size=3, concurrency=2).options["concurrency"] == 2


def test_agentpipes_module_must_come_first(tmp_path: Path) -> None:
    code = (
        "import dramatiq, dramatiq.brokers.stub\n"
        "dramatiq.set_broker(dramatiq.brokers.stub.StubBroker())\n"
        "import agentpipe.actors"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "put agentpipe.actors first, as in `dramatiq agentpipe.actors my_module`" in done.stderr
