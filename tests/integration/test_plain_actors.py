"""Plain Dramatiq actors on our brokers behave as Dramatiq's users expect."""

from __future__ import annotations

import functools
import threading
import time
from typing import Any

import dramatiq
import pytest
from dramatiq.errors import QueueJoinTimeout, QueueNotFound
from dramatiq.middleware import CurrentMessage, Middleware, SkipMessage
from dramatiq.middleware import TimeLimitExceeded as DramatiqsTimeLimit

from tests.integration.plain import PATIENCE_S, Plain
from tests.support import wait_until

SOON: dict[str, Any] = {"min_backoff": 1, "max_backoff": 2}


# Retries.


@pytest.mark.every_broker
@pytest.mark.parametrize(("max_retries", "runs"), [(0, 1), (3, 4)])
def test_own_exceptions_are_retried_as_often_as_max_retries_says(
    plain: Plain, max_retries: int, runs: int
) -> None:
    @plain.actor(max_retries=max_retries, **SOON)
    def fail() -> None:
        plain.say("run")
        raise ValueError("no")

    message = fail.send()
    plain.start()
    result = plain.result()
    assert (result.task_id, result.outcome) == (message.message_id, "agent_error")
    assert result.error is not None
    assert result.error["message"] == "no"
    assert plain.said == ["run"] * runs
    assert plain.broker.store.stats().dead == 1


def test_the_result_of_a_failure_tells_which_run_it_was(plain: Plain) -> None:
    @plain.actor(max_retries=1, **SOON)
    def fail() -> None:
        raise ValueError("no")

    fail.send()
    plain.start()
    result = plain.result()
    assert (result.attempt, result.usage, result.trace) == (2, {}, [])
    assert result.started_at is not None


@pytest.mark.parametrize("error", [ConnectionError("away"), TimeoutError("slow")])
def test_without_retries_a_failure_of_a_service_runs_once_as_well(
    plain: Plain, error: Exception
) -> None:
    @plain.actor(max_retries=0)
    def fail() -> None:
        plain.say("run")
        raise error

    fail.send()
    plain.start()
    assert plain.result().outcome == "infra_error"
    assert plain.said == ["run"]


def test_a_message_overrides_its_actors_retries(plain: Plain) -> None:
    @plain.actor(max_retries=5, **SOON)
    def fail() -> None:
        plain.say("run")
        raise ValueError("no")

    fail.send_with_options(max_retries=1)
    plain.start()
    assert plain.result().outcome == "agent_error"
    assert plain.said == ["run"] * 2


def test_an_exception_that_is_thrown_on_purpose_is_not_retried(plain: Plain) -> None:
    @plain.actor(throws=(KeyError, LookupError), max_retries=5, **SOON)
    def fail() -> None:
        plain.say("run")
        raise IndexError("of course")

    fail.send()
    plain.start()
    assert plain.result().outcome == "agent_error"
    assert plain.said == ["run"]


def test_retry_when_decides_instead_of_max_retries(plain: Plain) -> None:
    def while_few(retries: int, error: BaseException) -> bool:
        plain.say((retries, type(error)))
        return retries < 2

    @plain.actor(retry_when=while_few, max_retries=0, **SOON)
    def fail() -> None:
        raise ValueError("no")

    fail.send()
    plain.start()
    assert plain.result().outcome == "agent_error"
    assert plain.said == [(0, ValueError), (1, ValueError), (2, ValueError)]


def test_a_retry_waits_as_long_as_it_asks(plain: Plain) -> None:
    @plain.actor(max_retries=1, min_backoff=3_600_000, max_backoff=3_600_000)
    def fail() -> None:
        plain.say("run")
        if len(plain.said) == 1:
            raise dramatiq.Retry("soon", delay=1)

    fail.send()
    plain.start()
    assert plain.result().outcome == "ok"


def test_a_backoff_delays_the_retry(plain: Plain) -> None:
    @plain.actor(max_retries=1, min_backoff=3_600_000)
    def fail() -> None:
        raise ValueError("no")

    fail.send()
    plain.start()
    wait_until(lambda: plain.broker.store.stats().delayed == 1, PATIENCE_S, "it is delayed")


def test_current_messages_show_their_retries(plain: Plain) -> None:
    plain.broker.add_middleware(CurrentMessage())

    @plain.actor(max_retries=2, **SOON)
    def fail() -> None:
        message = CurrentMessage.get_current_message()
        assert message is not None
        plain.say(message.options.get("retries", 0))
        raise ValueError("no")

    fail.send()
    plain.start()
    assert plain.result().outcome == "agent_error"
    assert plain.said == [0, 1, 2]


# Limits.


def test_a_plain_function_over_its_time_limit_is_interrupted_and_retried(plain: Plain) -> None:
    @plain.actor(time_limit=500, max_retries=1, **SOON)
    def spin() -> None:
        plain.say("run")
        try:
            while True:
                time.sleep(0.001)
        except DramatiqsTimeLimit:
            plain.say("interrupted")
            raise

    spin.send()
    plain.start()
    result = plain.result()
    assert result.outcome == "limit"
    assert plain.said == ["run", "interrupted"] * 2


def test_one_that_catches_the_limit_may_still_answer(plain: Plain) -> None:
    @plain.actor(time_limit=500, max_retries=0)
    def spin() -> str:
        try:
            while True:
                time.sleep(0.001)
        except DramatiqsTimeLimit:
            return "as far as I came"

    spin.send()
    plain.start()
    assert (plain.result().outcome, plain.result().result) == ("ok", "as far as I came")


def test_a_message_overrides_its_actors_time_limit(plain: Plain) -> None:
    @plain.actor(time_limit=3_600_000, max_retries=0)
    async def wait() -> None:
        import asyncio

        await asyncio.sleep(3_600)

    wait.send_with_options(time_limit=20)
    plain.start()
    assert plain.result().outcome == "limit"


@pytest.mark.parametrize("place", ["actor", "message"])
def test_a_message_over_its_age_is_not_run(plain: Plain, place: str) -> None:
    @plain.actor(**({"max_age": 1} if place == "actor" else {}))
    def work() -> None:
        plain.say("run")

    message = work.message_with_options(**({"max_age": 1} if place == "message" else {}))
    plain.broker.enqueue(message.copy(message_timestamp=message.message_timestamp - 10))
    plain.start()
    result = plain.result()
    assert (result.outcome, plain.said) == ("stale", [])
    assert result.error is not None
    assert result.error["message"] == "Message age limit exceeded"


def test_a_lower_priority_runs_first(plain: Plain) -> None:
    @plain.actor(queue_name="both", priority=10)
    def later() -> None:
        plain.say("later")

    @plain.actor(queue_name="both")
    def sooner() -> None:
        plain.say("sooner")

    later.send()
    sooner.send()
    later.send_with_options(priority=-1)
    plain.start(worker_threads=1)
    assert plain.heard(3) == ["later", "sooner", "later"]


# Skipped, failed, returned.


class Skipping(Middleware):
    """Skips each message; ``fails`` also marks it as failed."""

    def __init__(self, *, fails: bool) -> None:
        self.fails = fails
        self.heard: list[str] = []

    def before_process_message(self, broker: Any, message: Any) -> None:
        del broker
        if self.fails:
            message.fail()
        raise SkipMessage("not today")

    def after_skip_message(self, broker: Any, message: Any) -> None:
        del broker, message
        self.heard.append("skipped")

    def after_ack(self, broker: Any, message: Any) -> None:
        del broker, message
        self.heard.append("ack")

    def after_nack(self, broker: Any, message: Any) -> None:
        del broker, message
        self.heard.append("nack")


@pytest.mark.parametrize(("heard", "dead"), [("ack", 0), ("nack", 1)])
def test_a_message_that_a_middleware_skips_is_skipped(plain: Plain, heard: str, dead: int) -> None:
    skipping = Skipping(fails=heard == "nack")
    plain.broker.add_middleware(skipping)

    @plain.actor()
    def work() -> None:
        plain.say("run")

    work.send()
    plain.start()
    result = plain.result()
    assert (result.outcome, plain.said) == ("cancelled", [])
    assert result.error is not None
    assert (result.error["type"], result.error["message"]) == ("SkipMessage", "not today")
    wait_until(lambda: skipping.heard == ["skipped", heard], PATIENCE_S, "the hooks are called")
    assert plain.broker.store.stats().dead == dead


def test_what_is_no_json_is_said_so_and_not_run_again(plain: Plain) -> None:
    @plain.actor(max_retries=5, **SOON)
    def work() -> object:
        plain.say("run")
        return {"when": object()}

    work.send()
    plain.start()
    result = plain.result()
    assert (result.outcome, plain.said) == ("agent_error", ["run"])
    assert result.error is not None
    assert "is of type object; use a string or JSON" in result.error["message"]
    assert plain.broker.store.stats().dead == 0


# Kinds of actors.


def test_a_decorator_around_an_async_actor_runs(plain: Plain) -> None:
    def noting(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any) -> Any:
            plain.say("decorated")
            return function(*args)

        return wrapper

    @plain.actor()
    @noting
    async def work(number: int) -> int:
        plain.say("run")
        return number + 1

    work.send(1)
    plain.start()
    assert plain.result().result == 2
    assert plain.said == ["decorated", "run"]


class Noting(dramatiq.Actor[Any, Any]):
    """A user's actor class with its own ``__call__``."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return ["called", super().__call__(*args, **kwargs)]


class AwaitingNoting(dramatiq.Actor[Any, Any]):
    """The same with an async ``__call__``."""

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return ["called", await super().__call__(*args, **kwargs)]


@pytest.mark.parametrize("kind", [Noting, AwaitingNoting])
def test_the_call_of_an_actor_class_runs_for_an_async_actor(plain: Plain, kind: type) -> None:
    @plain.actor(actor_class=kind)
    async def work(number: int) -> int:
        return number + 1

    work.send(1)
    plain.start()
    assert plain.result().result == ["called", 2]


def test_a_plain_function_calls_an_async_actor(plain: Plain) -> None:
    @plain.actor()
    async def add(left: int, right: int) -> int:
        return left + right

    @plain.actor()
    def work() -> Any:
        return add(1, 2)

    work.send()
    plain.start()
    assert plain.result().result == 3


def test_an_actor_that_exits_is_its_own_error_and_the_worker_lives(plain: Plain) -> None:
    @plain.actor(max_retries=0, queue_name="both")
    async def leave() -> None:
        raise SystemExit(3)

    @plain.actor(queue_name="both")
    def work() -> None:
        plain.say("run")

    message = leave.send()
    work.send()
    plain.start(worker_threads=1)
    result = plain.results(2)[message.message_id]
    assert (result.outcome, plain.said) == ("agent_error", ["run"])
    assert result.error is not None
    assert result.error["type"] == "SystemExit"


@pytest.mark.every_broker
def test_an_actor_that_is_declared_after_the_boot_is_served(plain: Plain) -> None:
    begun, go = threading.Event(), threading.Event()

    @plain.actor()
    def early() -> None:
        begun.set()
        go.wait(PATIENCE_S)

    early.send()
    plain.start()
    assert begun.wait(PATIENCE_S)

    @plain.actor()
    def late() -> None:
        plain.say("run")

    late.send()
    go.set()
    assert plain.heard(1) == ["run"]
    assert {result.outcome for result in plain.results(2).values()} == {"ok"}
    early.send()
    assert len(plain.results(3)) == 3


def test_a_message_for_an_actor_that_nobody_declared_is_told(plain: Plain) -> None:
    plain.broker.declare_queue("orphans")
    plain.broker.enqueue(
        dramatiq.Message(queue_name="orphans", actor_name="nobody", args=(), kwargs={}, options={})
    )
    plain.start()
    result = plain.result()
    assert result.error is not None
    assert (result.outcome, result.error["message"]) == (
        "infra_error",
        "no actor 'nobody' is known to this worker",
    )


# Threads and hooks.


def test_threads_are_used_again_so_that_what_is_bound_to_them_lasts(plain: Plain) -> None:
    local = threading.local()

    @plain.actor()
    def work() -> None:
        local.runs = getattr(local, "runs", 0) + 1
        plain.say(local.runs)

    plain.start(worker_threads=1)
    for number in range(1, 6):
        work.send()
        assert plain.heard(number)[-1] == number


class Waiting(Middleware):
    """Each hook waits until ``number`` threads are in it."""

    def __init__(self, number: int) -> None:
        self.before, self.after = threading.Barrier(number), threading.Barrier(number)

    def before_process_message(self, broker: Any, message: Any) -> None:
        del broker, message
        self.before.wait(PATIENCE_S)

    def after_process_message(self, broker: Any, message: Any, **_: Any) -> None:
        del broker, message
        self.after.wait(PATIENCE_S)


@pytest.mark.parametrize("kind", ["async", "plain"])
def test_hooks_of_runs_do_not_wait_for_each_other(plain: Plain, kind: str) -> None:
    waiting = Waiting(8)
    plain.broker.add_middleware(waiting)

    def function() -> None:
        plain.say("run")

    async def coroutine() -> None:
        plain.say("run")

    work = plain.actor()(coroutine if kind == "async" else function)
    for _ in range(8):
        work.send()
    plain.start(worker_threads=8)
    assert {result.outcome for result in plain.results(8).values()} == {"ok"}
    assert not waiting.before.broken
    assert not waiting.after.broken


class OwnThread(Middleware):
    """Records the threads that run its hooks."""

    def __init__(self) -> None:
        self.threads: list[int] = []

    def before_process_message(self, broker: Any, message: Any) -> None:
        del broker, message
        self.threads.append(threading.get_ident())

    def after_process_message(self, broker: Any, message: Any, **_: Any) -> None:
        del broker, message
        self.threads.append(threading.get_ident())


def test_hooks_run_in_the_thread_of_their_function(plain: Plain) -> None:
    hooks = OwnThread()
    plain.broker.add_middleware(hooks)

    @plain.actor()
    def work() -> None:
        plain.say(threading.get_ident())

    work.send()
    plain.start()
    assert plain.result().outcome == "ok"
    assert hooks.threads == plain.said * 2


@pytest.mark.parametrize("kind", ["async", "plain"])
def test_what_a_hook_sets_is_seen_by_its_run(plain: Plain, kind: str) -> None:
    plain.broker.add_middleware(CurrentMessage())

    def function() -> Any:
        message = CurrentMessage.get_current_message()
        return message and message.message_id

    async def coroutine() -> Any:
        return function()

    work = plain.actor()(coroutine if kind == "async" else function)
    message = work.send()
    plain.start()
    assert plain.result().result == message.message_id


# Embedding.


def test_a_worker_is_started_and_stopped_as_often_as_a_test_likes(plain: Plain) -> None:
    @plain.actor()
    def work(number: int) -> None:
        plain.say(number)

    for number in range(3):
        work.send(number)
        worker = plain.start()
        assert plain.heard(number + 1)[-1] == number
        worker.stop()
    left = {thread.name for thread in threading.enumerate()}
    assert not left & {"agentpipe-watchdog", "agentpipe-loop", "agentpipe-consumer"}


def test_joining_waits_for_what_waits_is_delayed_and_runs(plain: Plain) -> None:
    @plain.actor()
    def work(number: int) -> None:
        plain.say(number)

    for number in range(20):
        work.send(number)
    work.send_with_options(args=(20,), delay=200)
    with pytest.raises(QueueJoinTimeout):
        plain.broker.join("work", timeout=20)
    worker = plain.start()
    plain.broker.join("work", timeout=60_000)
    worker.join()
    assert sorted(plain.said) == list(range(21))
    with pytest.raises(QueueNotFound):
        plain.broker.join("elsewhere")


@pytest.mark.every_broker
def test_flushing_answers_what_waits_and_is_delayed_of_its_queue_only(plain: Plain) -> None:
    @plain.actor()
    def work() -> None:
        plain.say("work")

    @plain.actor()
    def other() -> None:
        plain.say("other")

    for _ in range(3):
        work.send()
        work.send_with_options(delay=3_600_000)
    other.send()
    plain.broker.flush("work")
    plain.start()
    assert plain.heard(1) == ["other"]
    outcomes = [result.outcome for result in plain.results(7).values()]
    assert sorted(outcomes) == ["cancelled"] * 6 + ["ok"]


def test_flushing_all_empties_each_queue(plain: Plain) -> None:
    @plain.actor()
    def work() -> None:
        plain.say("work")

    work.send()
    plain.agent.send("hi")
    plain.broker.flush_all()
    plain.broker.join("work", timeout=60_000)
    plain.broker.join("shouts_0", timeout=60_000)


def test_a_paused_worker_claims_nothing_until_it_is_resumed(plain: Plain) -> None:
    @plain.actor()
    def work() -> None:
        plain.say("run")

    worker = plain.start()
    worker.pause()
    work.send()
    with pytest.raises(QueueJoinTimeout):
        plain.broker.join("work", timeout=300)
    worker.resume()
    assert plain.heard(1) == ["run"]
