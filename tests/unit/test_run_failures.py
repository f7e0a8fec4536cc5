"""How a failed run is settled: an answer, a retry, a cooldown or a dead letter."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.core.failures import MAX_RETRY_DELAY_S
from agentpipe.errors import (
    AgentCrashed,
    AgentFailed,
    AnswerError,
    ConfigError,
    InfraError,
    Interrupted,
    TimeLimitExceeded,
)
from agentpipe.evaluation.evaluators import Evaluation
from agentpipe.sending.actor import AgentActor
from agentpipe.worker.running.runner import Completed
from tests.unit.agents import CREW
from tests.unit.settlements import TASK, Bench, away, result_of, unjudged

if TYPE_CHECKING:
    from agentpipe.brokers.records import Settlement
    from agentpipe.core.task import Task


# Failures.


def test_an_agents_exception_is_answered_not_retried(bench: Bench) -> None:
    with pytest.raises(LookupError) as caught:
        raise LookupError("no such thing")
    settlement = bench.end(exception=caught.value)
    result = result_of(settlement)
    assert (settlement.action, result.outcome, result.reward) == ("complete", "agent_error", None)
    assert result.error is not None
    assert (result.error["type"], result.error["message"]) == ("LookupError", "no such thing")
    assert "test_an_agents_exception_is_answered" in result.error["traceback"]
    assert settlement.reason == "LookupError: no such thing"


def test_a_time_limit_is_answered_not_retried(bench: Bench) -> None:
    settlement = bench.end(exception=TimeLimitExceeded(5))
    result = result_of(settlement)
    assert (settlement.action, result.outcome) == ("complete", "limit")
    assert result.error == {
        "type": "TimeLimitExceeded",
        "message": "The run took longer than its time limit of 5 s.",
        "traceback": None,
    }


def test_a_limit_has_a_reward_where_the_collection_says_so(bench: Bench) -> None:
    judged = replace(TASK, evaluators=[{"func": "raw", "name": "right"}, {"func": "raw"}])

    def ended(task: Task, error: Exception) -> tuple[float | None, bool, dict[str, float]]:
        settlement = bench.end(bench.message(task), exception=error)
        result = result_of(settlement)
        assert settlement.reward == result.reward
        return result.reward, result.reward_trustworthy, result.rewards

    nothing: tuple[None, bool, dict[str, float]] = (None, False, {})
    assert ended(judged, TimeLimitExceeded(5)) == nothing
    bench.declare(on_limit=0.0)
    assert ended(judged, TimeLimitExceeded(5)) == (0, True, {"right": 0})
    assert ended(judged, LookupError("x")) == nothing
    assert ended(TASK, TimeLimitExceeded(5)) == nothing


def test_what_is_no_answer_is_the_agents_error(bench: Bench) -> None:
    assert bench.end(exception=AnswerError("the answer is of type set")).outcome == "agent_error"


def test_an_interrupted_run_is_given_back(bench: Bench) -> None:
    assert bench.end(exception=Interrupted()).action == "release"


def test_an_agent_that_cancels_itself_is_its_own_error(bench: Bench) -> None:
    result = result_of(bench.end(exception=asyncio.CancelledError()))
    assert result.outcome == "agent_error"
    assert result.error is not None
    assert result.error["message"] == "the agent cancelled itself"


class OwnInfraError(InfraError):
    """A user's subclass."""


class APIConnectionError(Exception):
    """Has the name of a client library's error."""


class StrangeTimeoutError(Exception):
    """An unrelated error."""


class ConnectTimeoutError(StrangeTimeoutError, APIConnectionError):
    """Recognized by the name of a base class."""


class StatusError(Exception):
    """Stores a status like some client libraries do."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


def with_cause(cause: BaseException) -> Exception:
    error = RuntimeError("the tool failed")
    error.__cause__ = cause
    return error


def refused_connection() -> Exception:
    try:
        urllib.request.urlopen("http://127.0.0.1:1", timeout=5)
    except OSError as error:
        return error
    raise AssertionError("something listens on port 1")


def http_error(status: int) -> urllib.error.HTTPError:
    return urllib.error.HTTPError("http://h", status, "", None, None)  # type: ignore[arg-type]


INFRA = [
    pytest.param(InfraError("down"), id="InfraError"),
    pytest.param(OwnInfraError(), id="derived from InfraError"),
    pytest.param(ConnectionResetError(), id="connection"),
    pytest.param(TimeoutError(), id="timeout"),
    pytest.param(TimeoutError(), id="asyncio timeout"),
    pytest.param(refused_connection(), id="urllib: refused"),
    pytest.param(APIConnectionError(), id="name"),
    pytest.param(ConnectTimeoutError(), id="name of a base"),
    pytest.param(StatusError(status=408), id="408"),
    pytest.param(StatusError(code=503), id="503"),
    pytest.param(StatusError(response=SimpleNamespace(status_code=500)), id="response 500"),
    pytest.param(http_error(502), id="urllib: 502"),
    pytest.param(with_cause(ConnectionError()), id="cause"),
    pytest.param(with_cause(with_cause(StatusError(status=599))), id="cause of cause"),
    pytest.param(ExceptionGroup("g", [TimeoutError(), ConnectionError()]), id="group"),
]


@pytest.mark.parametrize("error", INFRA)
def test_a_failure_of_the_infrastructure_is_retried(bench: Bench, error: Exception) -> None:
    settlement = bench.end(exception=error)
    assert (settlement.action, settlement.result) == ("retry", b"")
    assert 0.5 <= settlement.delay_s <= 1.0


def circular() -> Exception:
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    return first


class Hostile(Exception):  # noqa: N818 - the name fits
    """Raises when converted to a string."""

    def __str__(self) -> str:
        raise RuntimeError("no __str__")

    __repr__ = __str__

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


AGENTS_OWN = [
    pytest.param(ValueError("x"), id="ValueError"),
    pytest.param(StatusError(status_code=404), id="404"),
    pytest.param(StatusError(status_code="500"), id="a status that is a text"),
    pytest.param(http_error(404), id="urllib: 404"),
    pytest.param(StrangeTimeoutError(), id="a stranger's name"),
    pytest.param(circular(), id="causes in a circle"),
    pytest.param(Hostile(), id="hostile"),
    pytest.param(ExceptionGroup("g", [TimeoutError(), ValueError()]), id="mixed group"),
    pytest.param(FileNotFoundError("x"), id="file not found"),
]


@pytest.mark.parametrize("error", AGENTS_OWN)
def test_everything_else_is_the_agents_error(bench: Bench, error: BaseException) -> None:
    assert bench.end(exception=error).outcome == "agent_error"


SET_UP = [
    pytest.param(InfraError("no such model", permanent=True), id="InfraError"),
    pytest.param(StatusError(response=SimpleNamespace(status_code=401)), id="401"),
    pytest.param(with_cause(StatusError(status=403)), id="cause"),
    pytest.param(ExceptionGroup("g", [TimeoutError(), StatusError(status=401)]), id="group"),
    pytest.param(ModuleNotFoundError("No module named 'x'"), id="module"),
    pytest.param(with_cause(ImportError("cannot import name 'x'")), id="import"),
    pytest.param(ConfigError("no such server"), id="ConfigError"),
    pytest.param(StatusError(status=429, code="insufficient_quota"), id="quota"),
    pytest.param(StatusError(status=404, code="model_not_found"), id="unknown model"),
    pytest.param(StatusError(status=402), id="402"),
]


@pytest.mark.parametrize("error", SET_UP)
def test_a_failure_of_the_set_up_is_dead_at_once(bench: Bench, error: Exception) -> None:
    settlement = bench.end(exception=error)
    assert (settlement.action, settlement.outcome) == ("bury", "infra_error")
    failure = result_of(settlement).error
    assert failure is not None
    assert failure["permanent"] is True


def test_after_the_last_retry_the_task_is_dead(bench: Bench) -> None:
    actions = []
    for failures in range(3):
        settlement = bench.end(bench.message(failures=failures), exception=InfraError("down"))
        actions.append(settlement.action)
    assert actions == ["retry", "retry", "bury"]
    result = result_of(settlement)
    assert (result.outcome, result.attempt, result.reward) == ("infra_error", 3, None)
    assert settlement.reason == "InfraError: down"


def test_the_log_names_the_failure_of_a_retry(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    error = AgentFailed("answered 502", kind="ModelServerError", traceback=None, infra=True)
    bench.end(bench.message(failures=1), exception=error)
    bench.end(result=unjudged("4", replace(away(), cause=error)))
    retry, evaluator = caplog.messages
    assert retry.startswith("ModelServerError; run 3 of 3 follows in ")
    failed = "a service of an evaluator failed: ModelServerError; try 2 of 3 follows in "
    assert evaluator.startswith(failed)


def delay_s(bench: Bench, failures: int, **asked: Any) -> float:
    actor = bench.broker.actors["crew_0"]
    assert isinstance(actor, AgentActor)
    actor.collection = replace(CREW, max_retries=100)
    error = InfraError("down", **asked)
    return bench.end(bench.message(failures=failures), exception=error).delay_s


def test_retries_back_off_with_jitter_up_to_a_limit(bench: Bench) -> None:
    for failures in range(6):
        delays = [delay_s(bench, failures) for _ in range(40)]
        assert all(0.5 * 2**failures <= delay <= 2**failures for delay in delays)
        assert len(set(delays)) > 30
    assert 0.5 * MAX_RETRY_DELAY_S <= delay_s(bench, 99) <= MAX_RETRY_DELAY_S


@pytest.mark.parametrize(
    ("asked", "low", "high"),
    [
        (60.0, 60, 60),
        (7, 7, 7),
        (0.01, 0.01, 0.01),
        (-5.0, 0.5, 1),
        (None, 0.5, 1),
        (float("nan"), 0.5, 1),
        (float("inf"), 3600, 3600),
    ],
)
def test_a_service_is_left_alone_for_as_long_as_it_asked(
    bench: Bench, asked: Any, low: float, high: float
) -> None:
    assert low <= delay_s(bench, 0, retry_after_s=asked) <= high


def limited(status: int, **headers: str) -> StatusError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return StatusError(status_code=status, response=SimpleNamespace(headers=named))


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(InfraError("busy", retry_after_s=7), id="InfraError"),
        pytest.param(limited(429, retry_after="7"), id="429"),
        pytest.param(limited(503, Retry_After="7"), id="503"),
        pytest.param(with_cause(limited(429, Retry_After="7")), id="cause"),
    ],
)
def test_what_a_service_asks_for_holds_the_queue_and_counts_nothing(
    bench: Bench, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    settlement = bench.end(bench.message(failures=99), exception=error)
    assert (settlement.action, settlement.delay_s, settlement.result) == ("cooldown", 7, b"")
    (line,) = [record.getMessage() for record in caplog.records]
    assert "cooldown of crew_0 for 7.0 s" in line


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(limited(503), id="503 without a time"),
        pytest.param(limited(503, x_ratelimit_reset_requests="7s"), id="503 with a reset"),
        pytest.param(limited(500, Retry_After="7"), id="500"),
    ],
)
def test_a_failure_that_is_no_limit_is_a_counted_retry(bench: Bench, error: Exception) -> None:
    assert bench.end(exception=error).action == "retry"


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(limited(429), id="429"),
        pytest.param(limited(529), id="529"),
        pytest.param(limited(429, Retry_After="0"), id="no time"),
        pytest.param(limited(429, Retry_After="soon"), id="garbage"),
        pytest.param(StatusError(status_code=400, code="rate_limit_exceeded"), id="code"),
        pytest.param(with_cause(limited(429)), id="cause"),
    ],
)
def test_a_rate_limit_without_a_time_is_an_uncounted_cooldown(
    bench: Bench, error: Exception
) -> None:
    settlement = bench.end(bench.message(failures=99), exception=error)
    assert (settlement.action, settlement.result) == ("cooldown", b"")
    assert 5 <= settlement.delay_s <= 6.25


def test_a_credentials_limit_covers_the_agents_of_its_context(bench: Bench) -> None:
    settlement = bench.end(exception=limited(429, retry_after="7"))
    assert (settlement.delay_s, settlement.cooldown_queues) == (7, ("crew_0", "crew_2", "crew_4"))


@pytest.mark.parametrize("error", [limited(503, retry_after="7"), InfraError("x", retry_after_s=7)])
def test_a_services_own_time_covers_the_agent_that_called_it(
    bench: Bench, error: Exception
) -> None:
    settlement = bench.end(exception=error)
    assert (settlement.delay_s, settlement.cooldown_queues) == (7, ())


def test_what_ends_in_a_cooldown_waits_for_its_end_only(bench: Bench) -> None:
    first, second = (bench.end(exception=limited(429)) for _ in "ab")
    assert first.delay_s - 1 < second.delay_s <= first.delay_s
    assert second.cooldown_queues == ()


@pytest.mark.parametrize("error", [limited(429), InfraError("busy", retry_after_s=7)])
def test_no_task_waits_in_cooldowns_for_ever(bench: Bench, error: Exception) -> None:
    settlement = bench.end(bench.message(cooled_s=3599.0), exception=error)
    assert settlement.action == "cooldown"
    settlement = bench.end(bench.message(cooled_s=3600.0), exception=error)
    assert (settlement.action, settlement.outcome) == ("bury", "infra_error")
    failure = result_of(settlement).error
    assert failure is not None
    assert failure["type"] == type(error).__name__
    assert "waited 3,600 s in cooldowns, at most max_cooldown_s: 3600" in failure["message"]
    assert "permanent" not in failure


@pytest.mark.parametrize(("cooled_s", "most_s"), [(0.0, 60.0), (45.0, 15.0), (59.9, 1.0)])
@pytest.mark.parametrize(
    "error",
    [
        pytest.param(limited(429, retry_after="9" * 30), id="429"),
        pytest.param(limited(429, retry_after="Fri, 31 Dec 9999 23:59:59 GMT"), id="date"),
        pytest.param(limited(429, x_ratelimit_reset_tokens="900h"), id="reset"),
        pytest.param(limited(503, retry_after="99999"), id="503"),
        pytest.param(InfraError("busy", retry_after_s=1e9), id="InfraError"),
    ],
)
def test_no_cooldown_is_longer_than_what_its_task_may_still_wait(
    bench: Bench, error: Exception, cooled_s: float, most_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    bench.declare(max_cooldown_s=60.0)
    settlement = bench.end(bench.message(cooled_s=cooled_s), exception=error)
    assert settlement.action == "cooldown"
    assert settlement.delay_s == pytest.approx(most_s)
    assert "s, what is left of max_cooldown_s: the service asked for " in caplog.text


def test_a_counted_retry_waits_at_least_as_long_as_the_service_asked(bench: Bench) -> None:
    assert bench.end(exception=limited(500, Retry_After="60")).delay_s == 60


# What the circuit breaker counts.


def test_runs_that_fail_the_same_way_have_the_same_digest(bench: Bench) -> None:
    ends = [bench.end(exception=ValueError(f"task {n} is odd")) for n in range(2)]
    ends.append(bench.end(exception=ValueError("something else")))
    digests = [end.failure.digest for end in ends if end.failure]
    assert len(digests) == 3
    assert digests[0] == digests[1] != digests[2]
    assert {end.failure.limit for end in ends if end.failure} == {10}


def test_what_an_error_quotes_of_its_task_makes_no_difference(bench: Bench) -> None:
    questions = ("Where is the sea?", "Who was here first?")
    ends = [
        bench.end(
            bench.message(replace(TASK, question=question)),
            exception=ValueError(f"cannot answer {question} at all"),
        )
        for question in questions
    ]
    assert ends[0].failure == ends[1].failure is not None


def test_every_kind_of_failed_run_counts_and_nothing_else(bench: Bench) -> None:
    broken = Evaluation(config={}, response="", passed=False, error="no key", broken=True)
    failed: dict[str, dict[str, Any]] = {
        "agent_error": {"exception": ValueError("x")},
        "infra_error": {"exception": InfraError("x", permanent=True)},
        "retry": {"exception": ConnectionError("x")},
        "crashed": {"exception": AgentCrashed("x")},
        "eval_error": {"result": Completed("x", (broken,))},
    }
    for name, end in failed.items():
        assert bench.end(**end).failure is not None, name
    others: dict[str, dict[str, Any]] = {
        "ok": {"result": Completed("x")},
        "limit": {"exception": TimeLimitExceeded(1.0)},
        "released": {"exception": Interrupted()},
        "cooldown": {"exception": InfraError("x", retry_after_s=1.0)},
        "shortage": {"exception": MemoryError()},
    }
    for name, end in others.items():
        assert bench.end(**end).failure is None, name


def test_broken_evaluators_count_by_their_own_error(bench: Bench) -> None:
    def end(error: str) -> Settlement:
        broken = Evaluation(config={}, response="", passed=False, error=error, broken=True)
        return bench.end(result=Completed("x", (broken,)))

    one, same, other = (end(error).failure for error in ("no key 1", "no key 2", "no judge"))
    assert one == same != other


def test_without_a_breaker_nothing_counts(bench: Bench) -> None:
    bench.declare(breaker=0)
    assert bench.end(exception=ValueError("x")).failure is None
