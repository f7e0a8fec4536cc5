"""Pipelines, groups, callbacks and stored results of plain actors and agents, combined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dramatiq
import pytest
from dramatiq.middleware import GroupCallbacks
from dramatiq.rate_limits.backends import StubBackend as StubLimits
from dramatiq.results import ResultFailure, Results
from dramatiq.results.backends import StubBackend

from agentpipe.errors import Unreachable
from agentpipe.sending.broker import StoreBroker
from tests.integration.plain import PATIENCE_S, Plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.brokers.records import Settlement

# Untyped in Dramatiq.
Limits: Any = StubLimits
Group: Any = dramatiq.group
PATIENCE_MS = int(PATIENCE_S * 1000)
SOON: dict[str, Any] = {"min_backoff": 1, "max_backoff": 2}


@pytest.fixture
def results(plain: Plain) -> StubBackend:
    backend = StubBackend()
    made: Any = Results
    plain.broker.add_middleware(made(backend=backend))
    return backend


def add_of(plain: Plain, **options: Any) -> Any:
    @plain.actor(**options)
    def add(left: int, right: int) -> int:
        return left + right

    return add


def save_of(plain: Plain) -> Any:
    @plain.actor()
    def save(*what: Any) -> None:
        plain.say(list(what))

    return save


@pytest.mark.every_broker
def test_a_pipeline_hands_each_answer_on(plain: Plain) -> None:
    add, save = add_of(plain), save_of(plain)
    (add.message(1, 2) | add.message(3) | save.message("sum")).run()
    plain.start()
    assert plain.heard(1) == [["sum", 6]]
    assert {result.outcome for result in plain.results(3).values()} == {"ok"}


@pytest.mark.every_broker
def test_an_agents_answer_goes_into_an_actor_and_back_into_an_agent(plain: Plain) -> None:
    @plain.actor()
    def turn(text: str) -> str:
        return text[::-1].lower()

    save = save_of(plain)
    pipe = plain.agent.message("abc") | turn.message() | plain.agent.message() | save.message()
    pipe.run()
    plain.start()
    assert plain.heard(1) == [["CBA"]]


def test_a_piped_object_is_a_task_and_fields_are_added_to_it(plain: Plain) -> None:
    @plain.actor()
    def ask() -> dict[str, Any]:
        return {"question": "why", "metadata": {"by": "ask"}}

    waiting = plain.agent.message(seed=7)
    (ask.message() | waiting).run()
    plain.start()
    result = plain.results(2)[waiting.message_id]
    assert (result.result, result.metadata) == ("WHY", {"by": "ask"})


def test_what_is_piped_from_an_agent_has_no_credentials(plain: Plain) -> None:
    save = save_of(plain)
    (plain.agent.message("tell") | save.message()).run()
    plain.agent.send_with_options(args=("fail",), on_failure=save)
    plain.start()
    said = plain.heard(2)
    assert ["it is ***"] in said
    (about,) = [it[1] for it in said if len(it) == 2]
    assert about == {"type": "ValueError", "message": "no, ***"}


def test_pipe_ignore_keeps_an_answer_from_what_follows(plain: Plain) -> None:
    add, save = add_of(plain), save_of(plain)
    ignoring = save.message_with_options(args=("alone",), pipe_ignore=True)
    (add.message(1, 2) | ignoring | save.message("then")).run()
    plain.start()
    assert plain.heard(2) == [["alone"], ["then", None]]


def test_a_pipelines_next_message_waits_for_its_delay(plain: Plain) -> None:
    add, save = add_of(plain), save_of(plain)
    (add.message(1, 2) | save.message_with_options(delay=50)).run()
    plain.start()
    assert plain.heard(1) == [[3]]


def test_a_pipeline_ends_where_one_fails(plain: Plain) -> None:
    @plain.actor(max_retries=0)
    def fail() -> None:
        raise ValueError("no")

    save = save_of(plain)
    (fail.message() | save.message()).run()
    (fail.message_with_options(on_failure="save") | save.message()).run()
    plain.start()
    (said,) = plain.heard(1)
    assert said[1] == {"type": "ValueError", "message": "no"}
    assert len(plain.results(3)) == 3


def test_what_cannot_be_piped_on_is_told_and_the_answer_kept(plain: Plain) -> None:
    @plain.actor()
    def ask() -> dict[str, Any]:
        return {"question": 7}

    message = ask.message()
    (message | plain.agent.message()).run()
    plain.start()
    result = plain.result()
    assert (result.outcome, result.result) == ("infra_error", {"question": 7})
    assert result.error is not None
    assert "what follows it cannot be sent: question: expected a string" in result.error["message"]


def test_a_pipe_into_a_queue_that_nobody_declared_is_told(plain: Plain) -> None:
    add = add_of(plain)
    lost: dramatiq.Message[Any] = dramatiq.Message(
        queue_name="nowhere", actor_name="nobody", args=(), kwargs={}, options={}
    )
    pipe: Any = dramatiq.pipeline([add.message(1, 2), lost], broker=plain.broker)
    pipe.run()
    plain.start()
    result = plain.result()
    assert (result.outcome, result.result) == ("infra_error", 3)
    assert result.error is not None
    assert "no process has declared the queue 'nowhere'" in result.error["message"]


def test_a_full_queue_takes_what_follows(plain: Plain) -> None:
    add = add_of(plain, max_queue_size=1)
    save = save_of(plain)

    @plain.actor(max_queue_size=1)
    def full(*what: Any) -> None:
        plain.say(list(what))

    full.send_with_options(args=("before",), delay=3_600_000)
    (add.message(1, 2) | full.message() | save.message()).run()
    plain.start()
    assert plain.heard(2) == [[3], [None]]


# Callbacks.


def test_success_and_failure_call_back_with_message_and_answer(plain: Plain) -> None:
    save = save_of(plain)
    add = add_of(plain, on_success=save)

    @plain.actor(max_retries=2, on_failure="save", **SOON)
    def fail() -> None:
        raise ValueError("no")

    sent = add.send(1, 2)
    plain.start()
    (said,) = plain.heard(1)
    assert (said[0]["message_id"], said[0]["actor_name"], said[1]) == (sent.message_id, "add", 3)
    fail.send()
    failures = plain.heard(4)[1:]
    assert [it[0]["options"]["retries"] for it in failures] == [1, 2, 3]
    assert {it[1]["message"] for it in failures} == {"no"}


def test_exhausted_retries_call_back_once(plain: Plain) -> None:
    save = save_of(plain)

    @plain.actor(max_retries=1, on_retry_exhausted=save, **SOON)
    def fail() -> None:
        raise ValueError("no")

    fail.send()
    plain.start()
    (said,) = plain.heard(1)
    assert said[1] == {"retries": 1, "max_retries": 1}
    assert len(plain.results(2)) == 2


@pytest.mark.parametrize(
    ("of_actor", "of_message", "most"),
    [({"max_retries": 3}, 0, 0), ({}, 0, 0), ({"max_retries": 0}, 1, 1)],
)
def test_exhausted_retries_tell_what_held(
    plain: Plain, of_actor: dict[str, Any], of_message: int, most: int
) -> None:
    save = save_of(plain)

    @plain.actor(on_retry_exhausted=save, **of_actor, **SOON)
    def fail() -> None:
        raise ValueError("no")

    fail.send_with_options(max_retries=of_message)
    plain.start()
    assert plain.heard(1)[0][1] == {"retries": most, "max_retries": most}


def test_an_error_that_is_thrown_on_purpose_has_exhausted_no_retries(plain: Plain) -> None:
    save = save_of(plain)

    @plain.actor(throws=KeyError, on_retry_exhausted=save, on_failure=save)
    def fail() -> None:
        raise KeyError("wanted")

    fail.send()
    plain.start()
    plain.broker.join("fail", timeout=PATIENCE_MS)
    plain.broker.join("save", timeout=PATIENCE_MS)
    assert [said[1]["type"] for said in plain.said] == ["KeyError"]


@pytest.mark.parametrize("option", ["on_success", "on_failure", "on_retry_exhausted"])
def test_an_unknown_callback_is_told_before_the_run(
    plain: Plain, option: str, caplog: pytest.LogCaptureFixture
) -> None:
    @plain.actor()
    def work() -> None:
        plain.say("run")

    work.send_with_options(**{option: "nobody"})
    plain.start()
    result = plain.result()
    assert (result.outcome, plain.said) == ("infra_error", [])
    assert result.error is not None
    assert f"{option}: no actor 'nobody' is known" in result.error["message"]
    assert not [each for each in caplog.records if each.exc_info]


@pytest.mark.parametrize("option", ["on_success", "on_failure", "on_retry_exhausted"])
def test_an_agent_is_no_callback_also_if_the_sender_does_not_know_that_it_is_one(
    plain: Plain, option: str, caplog: pytest.LogCaptureFixture
) -> None:
    @plain.actor()
    def work() -> None:
        plain.say("run")

    message = work.message_with_options(**{option: "shouts_0"})
    StoreBroker(plain.broker.store, []).enqueue(message)
    plain.start()
    result = plain.result()
    assert result.error is not None
    assert "takes a task: use a pipeline" in result.error["message"]
    assert not [each for each in caplog.records if each.exc_info]


def test_a_store_that_is_away_at_the_end_of_a_run_loses_and_repeats_nothing(
    plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = save_of(plain)
    add = add_of(plain, on_success=save)
    store, away = plain.broker.store, [2]
    settle = store.settle

    def settle_later(settlements: Sequence[Settlement]) -> list[bool]:
        away[0] -= 1
        if away[0] >= 0:
            raise Unreachable("sqlite:///away: gone")
        return settle(settlements)

    add.send(1, 2)
    monkeypatch.setattr(store, "settle", settle_later)
    plain.start()
    assert len(plain.results(2)) == 2
    assert [it[1] for it in plain.heard(1)] == [3]
    assert store.stats().accepted == 2


# Stored results and groups.


@pytest.mark.usefixtures("results")
def test_an_answer_without_a_waiter_is_not_said_to_be_discarded(
    plain: Plain, caplog: pytest.LogCaptureFixture
) -> None:
    add = add_of(plain)
    add.send(1, 2)
    plain.agent.send("hi")
    plain.start()
    assert {it.outcome for it in plain.results(2).values()} == {"ok"}
    assert "discarded" not in caplog.text


def test_waiters_get_answers_and_final_failures(plain: Plain, results: StubBackend) -> None:
    add = add_of(plain, store_results=True)

    @plain.actor(store_results=True, max_retries=2, **SOON)
    def fail() -> None:
        raise ValueError("no")

    sums, failed = add.send(1, 2), fail.send()
    plain.start()
    assert sums.get_result(backend=results, block=True, timeout=PATIENCE_MS) == 3
    with pytest.raises(ResultFailure, match="actor raised ValueError: no"):
        failed.get_result(backend=results, block=True, timeout=PATIENCE_MS)


def test_waiters_for_an_agent_are_told_as_well(plain: Plain, results: StubBackend) -> None:
    good = plain.agent.send_with_options(args=("hi",), store_results=True)
    bad = plain.agent.send_with_options(args=("fail",), store_results=True)
    late = plain.agent.send_with_options(
        args=({"question": "hi", "deadline": 1.0},), store_results=True
    )
    plain.start()
    assert good.get_result(backend=results, block=True, timeout=PATIENCE_MS) == "HI"
    with pytest.raises(ResultFailure, match=r"no, \*\*\*"):
        bad.get_result(backend=results, block=True, timeout=PATIENCE_MS)
    with pytest.raises(ResultFailure, match="not started by its deadline"):
        late.get_result(backend=results, block=True, timeout=PATIENCE_MS)


def test_waiters_for_what_is_no_json_or_too_old_are_told(
    plain: Plain, results: StubBackend
) -> None:
    @plain.actor(store_results=True)
    def work() -> object:
        return object()

    odd, old = work.send(), work.message_with_options(max_age=1)
    plain.broker.enqueue(old.copy(message_timestamp=1))
    plain.start()
    with pytest.raises(ResultFailure, match="use a string or JSON"):
        odd.get_result(backend=results, block=True, timeout=PATIENCE_MS)
    with pytest.raises(ResultFailure, match="SkipMessage: Message age limit exceeded"):
        old.get_result(backend=results, block=True, timeout=PATIENCE_MS)


@pytest.mark.usefixtures("results")
def test_a_pipelines_answers_are_kept(plain: Plain) -> None:
    add = add_of(plain, store_results=True)
    pipe = add.message(1, 2) | (add.message(3) | add.message(4))
    pipe.run()
    plain.start()
    assert pipe.get_result(block=True, timeout=PATIENCE_MS) == 10
    assert list(pipe.get_results()) == [3, 6, 10]
    assert pipe.completed


@pytest.mark.usefixtures("results")
def test_a_group_of_actors_agents_and_pipelines_completes_and_calls_back(plain: Plain) -> None:
    plain.broker.add_middleware(GroupCallbacks(Limits()))
    add, save = add_of(plain, store_results=True), save_of(plain)
    asked = plain.agent.message_with_options(args=("hi",), store_results=True)
    group = Group([add.message(1, 2), asked, add.message(1, 1) | add.message(2)])
    group.add_completion_callback(save.message("done"))
    group.run()
    plain.start()
    assert list(group.get_results(block=True, timeout=PATIENCE_MS)) == [3, "HI", 4]
    assert plain.heard(1) == [["done"]]


def test_a_group_with_callbacks_needs_their_middleware_in_the_worker(plain: Plain) -> None:
    add, save = add_of(plain), save_of(plain)
    options = {
        "group_completion_uuid": "g",
        "group_completion_callbacks": [save.message("done").asdict()],
    }
    plain.broker.enqueue(add.message(1, 2).copy(options=options))
    plain.start()
    result = plain.result()
    assert result.outcome == "infra_error"
    assert result.error is not None
    assert "no GroupCallbacks middleware" in result.error["message"]
