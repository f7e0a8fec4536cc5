"""Users' middleware for plain actors and agents, with the hooks that Dramatiq documents."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest
from dramatiq import Middleware
from dramatiq.middleware import GroupCallbacks
from dramatiq.rate_limits.backends import StubBackend

from agentpipe.errors import OptionError, TaskError

if TYPE_CHECKING:
    from tests.integration.plain import Plain


class Notes(Middleware):
    """Sets a message option without declaring it, as Sentry's and OpenTelemetry's do."""

    def before_enqueue(self, _: Any, message: dramatiq.Message[Any], __: Any) -> None:
        message.options["trace_of_caller"] = {"id": 7}


@pytest.mark.every_broker
def test_an_option_that_a_hook_sets_travels_with_its_message(plain: Plain) -> None:
    class Reads(Notes):
        def before_process_message(self, _: Any, message: Any) -> None:
            plain.say(message.options["trace_of_caller"])

    plain.broker.add_middleware(Reads())

    @plain.actor()
    def work() -> str:
        return "done"

    work.send()
    plain.agent.send("hi")
    plain.start()
    assert {it.outcome for it in plain.results(2).values()} == {"ok"}
    assert plain.heard(2) == [{"id": 7}] * 2


def test_the_threads_of_actors_begin_and_end_with_their_hooks(plain: Plain) -> None:
    local = threading.local()

    class Connections(Middleware):
        def after_worker_thread_boot(self, _: Any, thread: Any) -> None:
            local.connection = thread.name

        def before_worker_thread_shutdown(self, *_: Any) -> None:
            time.sleep(0.2)  # A stopping worker waits for this hook.
            plain.say(local.connection)

    plain.broker.add_middleware(Connections())

    @plain.actor(max_retries=0)
    def work() -> Any:
        return local.connection

    work.send()
    worker = plain.start()
    connection = plain.result().result
    assert connection
    worker.stop()
    assert plain.said == [connection]


def test_a_hook_of_a_thread_that_fails_ends_no_thread(plain: Plain) -> None:
    class Broken(Middleware):
        def after_worker_thread_boot(self, *_: Any) -> None:
            raise SystemExit(3)

    plain.broker.add_middleware(Broken())

    @plain.actor(max_retries=0)
    def work() -> str:
        return "done"

    work.send()
    plain.start()
    assert plain.result().result == "done"


def test_no_time_limit_is_what_it_says(plain: Plain) -> None:
    @plain.actor(time_limit=None, max_age=1)
    def work() -> str:
        return "done"

    message = work.message()
    plain.broker.enqueue(message.copy(message_timestamp=message.message_timestamp - 5_000))
    plain.start()
    assert plain.result().outcome == "stale"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (float("nan"), r"args\[0\]: nan is not JSON"),
        ({"deep": [float("-inf")]}, r"args\[0\].deep\[0\]: -inf is not JSON"),
        (threading, r"args\[0\]: is of type module"),
        ({1: 2}, r"args\[0\]: keys must be strings, got int"),
        (2**64, r"args\[0\]: an integer beyond 64 bits"),
    ],
)
def test_what_would_arrive_as_something_else_is_not_sent(
    plain: Plain, value: Any, why: str
) -> None:
    @plain.actor()
    def work(_: Any) -> None:
        """Do nothing."""

    with pytest.raises(TaskError, match=f"work: what is sent to an actor must be JSON: {why}"):
        work.send(value)
    with pytest.raises(TaskError, match=r"must be JSON: options\.pipe_target\.args"):
        (work.message(1) | work.message(value)).run()
    with pytest.raises(TaskError, match=r"must be JSON: pipe_target\.args"):
        (plain.agent.message("q") | work.message(value)).run()


@pytest.mark.parametrize("delay", [float("nan"), "5", True, 2**70])
def test_a_delay_that_is_none_is_refused(plain: Plain, delay: Any) -> None:
    @plain.actor()
    def work() -> None:
        """Do nothing."""

    with pytest.raises(OptionError, match="message to work: delay: expected milliseconds"):
        work.send_with_options(delay=delay)


def test_a_delay_in_the_past_runs_at_once(plain: Plain) -> None:
    @plain.actor()
    def work() -> str:
        return "done"

    work.send_with_options(delay=timedelta(seconds=-5))
    pipe: Any = work.message_with_options(delay=-5) | work.message_with_options(pipe_ignore=True)
    pipe.run()
    plain.start()
    assert {it.outcome for it in plain.results(3).values()} == {"ok"}


def test_a_hook_that_exits_costs_neither_answer_nor_pipeline(plain: Plain) -> None:
    class Exits(Middleware):
        def after_process_message(self, *_: Any, **__: Any) -> None:
            raise SystemExit(3)

    plain.broker.add_middleware(Exits())

    @plain.actor()
    def work(*what: Any) -> Any:
        return list(what)

    (work.message(1) | work.message(2)).run()
    plain.start()
    answers = sorted(len(it.result) for it in plain.results(2).values())
    assert answers == [1, 2]


def test_a_groups_callback_goes_to_a_full_queue(plain: Plain) -> None:
    backend: Any = StubBackend  # Untyped in Dramatiq.
    plain.broker.add_middleware(GroupCallbacks(backend()))

    @plain.actor(max_queue_size=1)
    def save(what: str) -> None:
        plain.say(what)

    @plain.actor()
    def work(number: int) -> int:
        return number

    save.send_with_options(args=("late",), delay=60_000)
    made: Any = dramatiq.group
    group = made([work.message(1), work.message(2)])
    group.add_completion_callback(save.message("both"))
    group.run()
    plain.start()
    assert plain.heard(1) == ["both"]


def test_a_message_that_is_sent_twice_is_told(
    plain: Plain, caplog: pytest.LogCaptureFixture
) -> None:
    @plain.actor()
    def work() -> None:
        """Do nothing."""

    message = work.send()
    assert not caplog.records
    plain.broker.enqueue(message)
    assert f"work: {message.message_id}: the id was sent before" in caplog.text
