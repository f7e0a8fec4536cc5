"""How a run's end becomes a settlement, and that nothing an agent does can spoil it."""

from __future__ import annotations

import asyncio
import errno
import random
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from dramatiq.middleware import SkipMessage

from agentpipe.brokers import open_store
from agentpipe.brokers.records import Claim, Settlement
from agentpipe.config.collection import ContextSpec
from agentpipe.core import masking
from agentpipe.core.failures import MAX_RETRY_DELAY_S
from agentpipe.core.redaction import Redactor
from agentpipe.core.result import WITHHELD, Result
from agentpipe.core.secret_forms import MASK
from agentpipe.core.task import Task
from agentpipe.core.trace import Tracer, record_usage
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
from agentpipe.evaluation.kept_answer import KeptAnswer
from agentpipe.sending.actor import AgentActor
from agentpipe.sending.broker import StoreBroker
from agentpipe.settings import Settings
from agentpipe.worker.outcomes.results import Results
from agentpipe.worker.running.message import ClaimedMessage
from agentpipe.worker.running.runner import Completed
from tests.unit.agents import CREW, runner_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CANARY = 'canary-"zebrawing'
TASK = Task(
    question="Why?",
    task_id="t1",
    metadata={"mine": 1},
    group_id="g1",
    sample_index=2,
    group_size=4,
    policy_version="v7",
    seed=9,
    replay_of="t0",
    run="v2",
    retry_of="t00",
)


class Bench:
    """The middleware, an actor, and messages for it."""

    def __init__(self, folder: Path) -> None:
        self.results = Results("worker-1", retry_delay_s=1.0)
        settings = Settings(broker=f"sqlite:///{folder / 'broker.db'}")
        self.broker = StoreBroker(open_store(settings), [self.results])
        self.declare()

    def declare(self, **limits: Any) -> None:
        contexts = tuple(ContextSpec({}, {}, "crew.yaml", 1) for _ in "ab")
        crew = replace(CREW, number=3, contexts=contexts)
        crew = replace(crew, **{"max_retries": 2, "max_crashes": 3, **limits})
        masking.install([CANARY])
        runner = runner_of(object, env={"TOKEN": CANARY, "MODE": "on"})
        self.broker.actors.pop("crew_0", None)
        AgentActor(crew, crew.agents[0], self.broker, runner)

    def message(self, task: Task = TASK, **claim: Any) -> ClaimedMessage:
        fields = {"payload": task.encode(), "submitted_at": 1000.0, **claim}
        message = ClaimedMessage(Claim("t1", "crew_0", worker="worker-1", number=1, **fields))
        message.tracer = Tracer()
        return message

    def end(self, message: ClaimedMessage | None = None, **end: Any) -> Settlement:
        message = message or self.message()
        self.results.after_process_message(self.broker, message, **end)
        assert message.settlement is not None
        return message.settlement

    def skip(self, message: ClaimedMessage) -> Settlement:
        with pytest.raises(SkipMessage):
            self.results.before_process_message(self.broker, message)
        assert message.settlement is not None
        return message.settlement


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.broker.close()


def result_of(settlement: Settlement) -> Result:
    result = Result.decode(settlement.result)
    assert result.outcome == settlement.outcome
    return result


def evaluation(*, passed: bool, broken: bool = False) -> Evaluation:
    error = "it broke" if broken else ""
    return Evaluation({"func": "raw"}, "4", passed=passed, error=error, broken=broken)


# Answers.


def test_an_answer_is_ok_and_carries_all_that_came_with_its_task(bench: Bench) -> None:
    settlement = bench.end(result=Completed({"x": 4}))
    result = result_of(settlement)
    assert (settlement.action, result.outcome, result.result) == ("complete", "ok", {"x": 4})
    assert (result.task_id, result.collection, result.agent) == ("t1", "crew", "crew_0")
    assert (result.metadata, result.group_id, result.sample_index) == ({"mine": 1}, "g1", 2)
    assert (result.group_size, result.policy_version, result.seed) == (4, "v7", 9)
    assert (result.replay_of, result.worker, result.error) == ("t0", "worker-1", None)
    assert (result.run, result.retry_of) == ("v2", "t00")
    assert result.submitted_at == "1970-01-01T00:16:40.000000Z"
    assert result.submitted_at < (result.started_at or "") <= (result.finished_at or "")


def test_a_result_has_the_task_as_it_was_sent_without_what_it_leaves_out(bench: Bench) -> None:
    asked = {
        "question": "2 and 2?",
        "output_format": {"answer": "int"},
        "evaluators": [{"func": "json", "op": "="}],
        "mcp_servers": [{"name": "weather"}],
        "prepares": [{"prepare_func": "f"}],
    }
    task = Task.load({**asked, "task_id": "t1", "metadata": {"k": 1}, "seed": 3, "priority": 4})
    sent = bench.message(task=task)
    assert result_of(bench.end(sent, result=Completed(4))).task == asked
    assert result_of(bench.end(bench.message(task=task), exception=ValueError("no"))).task == asked


def test_no_secret_leaves_in_the_task(bench: Bench) -> None:
    task = Task.load(
        {
            "question": f"is {CANARY} a key?",
            "evaluators": [{"func": "json", "value": {CANARY: [CANARY]}}],
            "task_id": "t1",
        }
    )
    settlement = bench.end(bench.message(task=task), result=Completed(4))
    assert CANARY.encode() not in settlement.result
    assert (result_of(settlement).task or {})["question"] == "is *** a key?"


def test_an_attempt_counts_failures_and_crashes_before(bench: Bench) -> None:
    assert result_of(bench.end(result=Completed(4))).attempt == 1
    again = bench.message(failures=2, crashes=1)
    assert result_of(bench.end(again, result=Completed(4))).attempt == 4


@pytest.mark.parametrize(
    ("passed", "reward"), [([], None), ([True], 1.0), ([True, False], 0.5), ([False], 0.0)]
)
def test_the_reward_is_the_mean_of_passed(
    bench: Bench, passed: list[bool], reward: float | None
) -> None:
    run = Completed("4", tuple(evaluation(passed=each) for each in passed))
    result = result_of(bench.end(result=run))
    assert (result.outcome, result.reward) == ("ok", reward)
    assert result.reward_trustworthy == (reward is not None)
    assert [each["passed"] for each in result.evaluation_results] == passed


def test_a_graded_result_has_the_reward_of_each_name(bench: Bench) -> None:
    style = Evaluation({"name": "style", "weight": 3}, "4", passed=False, score=0.5)
    right = Evaluation({"name": "right"}, "4", passed=True)
    result = result_of(bench.end(result=Completed("4", (style, right))))
    assert (result.reward, result.rewards) == (0.625, {"style": 0.5, "right": 1.0})
    assert [each.get("score") for each in result.evaluation_results] == [0.5, None]
    broken = (style, evaluation(passed=False, broken=True))
    failed = result_of(bench.end(result=Completed("4", broken)))
    assert (failed.reward, failed.rewards) == (None, {})


def test_a_result_written_before_there_were_rewards_is_read() -> None:
    result = Result.decode(b'{"schema": 1, "task_id": "a", "outcome": "ok", "reward": 1.0}')
    assert (result.reward, result.rewards) == (1.0, {})


def test_a_broken_evaluator_is_no_wrong_answer(bench: Bench) -> None:
    run = Completed("4", (evaluation(passed=True), evaluation(passed=False, broken=True)))
    result = result_of(bench.end(result=run))
    assert (result.outcome, result.result, result.reward) == ("eval_error", "4", None)
    assert not result.reward_trustworthy
    assert result.error == {"type": "EvaluationError", "message": "it broke", "traceback": None}


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
    """A user's."""


class APIConnectionError(Exception):
    """Named as a client library names it."""


class StrangeTimeoutError(Exception):
    """A stranger."""


class ConnectTimeoutError(StrangeTimeoutError, APIConnectionError):
    """Known by a name of its bases."""


class StatusError(Exception):
    """Keeps a status as some client library does."""

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


class Hostile(Exception):  # noqa: N818 - what it is
    """Breaks whatever touches it."""

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


# Hostile agents.


class HostileText(Exception):  # noqa: N818 - what it is
    """Its text is what the test says, or raises it."""

    def __init__(self, text: Any) -> None:
        self.text = text

    def __str__(self) -> str:
        if isinstance(self.text, type):
            raise self.text
        return self.text  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "text", [RuntimeError, RecursionError, SystemExit, KeyboardInterrupt, 7, None]
)
def test_a_message_that_cannot_be_shown_is_said_to_be_so(bench: Bench, text: Any) -> None:
    result = result_of(bench.end(exception=HostileText(text)))
    assert result.error is not None
    assert result.error["message"] == "its message cannot be shown: __str__ raises"


def test_a_message_of_surrogates_or_of_any_length_is_shown(bench: Bench) -> None:
    shown = result_of(bench.end(exception=HostileText("a\ud800b"))).error or {}
    assert shown["message"] == "a\ufffdb"
    shown = result_of(bench.end(exception=HostileText("x" * 10_000_000))).error or {}
    assert len(shown["message"]) <= 4000


@dataclass
class Thing:
    """orjson writes dataclasses by itself."""

    name: str


def cyclic() -> dict[str, Any]:
    cycle: dict[str, Any] = {}
    cycle["again"] = cycle
    return cycle


@pytest.mark.parametrize(
    "data", [{"x": {1, 2}}, {"x": b"bytes"}, {"x": object()}, cyclic(), {1: 2}]
)
def test_a_record_that_is_not_json_is_dropped_and_all_else_kept(bench: Bench, data: Any) -> None:
    message = bench.message()
    assert message.tracer is not None
    with message.tracer.root() as span:
        span.add({"type": "agent", **data})
        span.add({"type": "llm"})
    result = result_of(bench.end(message, result=Completed("4")))
    assert (result.outcome, result.result) == ("ok", "4")
    dropped, kept = (record["data"] for record in result.trace[0]["records"])
    assert "not JSON" in dropped["dropped"]
    assert (dropped["type"], kept) == ("agent", {"type": "llm"})


def nested(levels: int) -> Any:
    value: Any = "deep"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("levels", [*range(225, 256), 1_000, 100_000])
def test_a_record_nested_too_deeply_is_dropped_and_all_else_kept(bench: Bench, levels: int) -> None:
    message = bench.message()
    assert message.tracer is not None
    with message.tracer.root() as span:
        span.add({"type": "agent", "deep": nested(levels)})
        span.add({"type": "llm"})
    result = result_of(bench.end(message, result=Completed(f"{CANARY} 4")))
    assert (result.outcome, result.result) == ("ok", f"{MASK} 4")
    assert [record["data"]["type"] for record in result.trace[0]["records"]] == ["agent", "llm"]


@pytest.mark.parametrize(
    "field", ["id", "parent_id", "trace_id", "running_time", "timestamp", "span_index"]
)
@pytest.mark.parametrize(
    "value", [2**70, float("nan"), "\ud800", {"x": {1, 2}}, object(), b"bytes", nested(300), None]
)
def test_a_span_of_another_program_may_hold_anything(
    bench: Bench, field: str, value: object
) -> None:
    message = bench.message()
    assert message.tracer is not None
    message.tracer.take({"records": [{"data": {"type": "tool"}, "timestamp": value}], field: value})
    result = result_of(bench.end(message, result=Completed("4")))
    assert (result.outcome, result.result) == ("ok", "4")
    (span,) = result.trace
    assert isinstance(span["id"], str)
    assert all(isinstance(span[name], float) for name in ("running_time", "timestamp"))


@pytest.mark.parametrize("number", [2**70, -5, float("nan"), float("inf")])
def test_a_number_of_tokens_that_cannot_be_right_costs_no_answer(
    bench: Bench, number: float
) -> None:
    message = bench.message()
    assert message.tracer is not None
    with message.tracer.root():
        record_usage({"input_tokens": number, "requests": 1, "usd": number})
    settlement = bench.end(message, result=Completed("4"))
    result = result_of(settlement)
    assert (settlement.action, result.outcome, result.result) == ("complete", "ok", "4")
    assert result.usage == {"requests": 1}
    assert settlement.usd == 0.0
    assert "'input_tokens'" in result.trace[0]["records"][0]["data"]["dropped"]


def test_what_spoils_a_result_in_the_end_is_left_out_and_said(bench: Bench) -> None:
    message = bench.message()
    assert message.tracer is not None
    message.tracer.spans.append({"records": [{1, 2}]})  # As an agent that goes on changing it.
    result = result_of(bench.end(message, result=Completed("4", (evaluation(passed=True),))))
    assert (result.outcome, result.result, result.reward) == ("ok", "4", 1.0)
    assert result.trace == []
    assert result.truncated is not None
    assert result.truncated["fields"] == ["trace"]
    assert "not JSON" in result.truncated["reason"]


def test_a_result_that_cannot_be_made_says_so_and_keeps_the_answer(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    spoilt = replace(evaluation(passed=True), config={"weight": "heavy"})
    settlement = bench.end(result=Completed("4", (spoilt,)))
    result = result_of(settlement)
    assert (settlement.action, result.outcome, result.result) == ("bury", "infra_error", "4")
    assert result.error is not None
    assert "failed to make a result of this run: could not convert" in result.error["message"]
    assert (result.task_id, result.metadata, result.attempt) == ("t1", {"mine": 1}, 1)
    assert "no result could be made of a run: ValueError: could not convert" in caplog.text
    assert "in reward" in caplog.text
    caplog.clear()
    secret = replace(evaluation(passed=True), config={"weight": CANARY})
    result = result_of(bench.end(result=Completed(f"4 {CANARY}", (secret,))))
    assert (result.outcome, result.result) == ("infra_error", f"4 {MASK}")
    assert "zebrawing" not in caplog.text


def test_a_record_with_a_lone_surrogate_is_kept_without_it(bench: Bench) -> None:
    message = bench.message()
    assert message.tracer is not None
    with message.tracer.root() as span:
        span.add({"type": "agent", "x\udfff": ["\ud800!"]})
    (record,) = result_of(bench.end(message, result=Completed("4"))).trace[0]["records"]
    assert record["data"] == {"type": "agent", "x\ufffd": ["\ufffd!"]}


def test_a_trace_is_in_the_result(bench: Bench) -> None:
    message = bench.message()
    assert message.tracer is not None
    with message.tracer.root() as span:
        span.add({"type": "agent"})
    result = result_of(bench.end(message, result=Completed("4")))
    assert result.trace[0]["records"][0]["data"] == {"type": "agent"}


# Secrets.


@pytest.mark.parametrize(
    "answer",
    [
        f"my token is {CANARY}",
        {"token": [CANARY]},
        {CANARY: 1},
        ("a", (CANARY,)),
        orjson.dumps({"token": CANARY}).decode(),
    ],
)
def test_no_secret_leaves_in_an_answer(bench: Bench, answer: Any) -> None:
    settlement = bench.end(result=Completed(answer))
    assert b"zebrawing" not in settlement.result
    assert MASK.encode() in settlement.result


def test_no_secret_leaves_in_a_trace(bench: Bench) -> None:
    message = bench.message()
    assert message.tracer is not None
    with message.tracer.root() as span:
        span.add({"header": CANARY, "nested": (CANARY,), "thing": Thing(CANARY)})
    assert b"zebrawing" not in bench.end(message, result=Completed("4")).result


def test_no_secret_leaves_in_an_error(bench: Bench) -> None:
    settlement = bench.end(exception=ValueError(f"bad token {CANARY}"))
    assert b"zebrawing" not in settlement.result
    assert settlement.reason == f"ValueError: bad token {MASK}"


def test_no_secret_leaves_in_an_evaluation(bench: Bench) -> None:
    run = Completed("4", (Evaluation({}, CANARY, passed=False, reason=f"not {CANARY}"),))
    assert b"zebrawing" not in bench.end(result=run).result


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        ("TypeError: bad zebrawi", f"TypeError: {WITHHELD}"),
        ("checks:f raised KeyError: 'zebrawi' (at checks.py:3)", f"KeyError: {WITHHELD}"),
        ("zebrawi: no such name", WITHHELD),
        ("checks:f raised zebrawi: gone", WITHHELD),
        ("no type: zebrawi", WITHHELD),
        ("zebrawi", WITHHELD),
    ],
)
def test_a_withheld_error_keeps_its_type(bench: Bench, error: str, shown: str) -> None:
    judged = replace(evaluation(passed=False, broken=True), error=error, reason="KeyError: a")
    result = result_of(bench.end(result=Completed(f"it is {CANARY}", (judged,))))
    (judgement,) = result.evaluation_results
    assert (judgement["error"], judgement["reason"]) == (shown, WITHHELD)
    assert result.error == {"type": "EvaluationError", "message": shown, "traceback": None}


def test_the_senders_words_are_not_masked(bench: Bench) -> None:
    task = replace(TASK, metadata={"token": CANARY})
    result = result_of(bench.end(bench.message(task), result=Completed(CANARY)))
    assert (result.metadata, result.result) == ({"token": CANARY}, MASK)


# What never runs.


def test_a_crashing_task_is_dead_after_its_last_crash(bench: Bench) -> None:
    bench.results.before_process_message(bench.broker, bench.message(crashes=2))
    message = bench.message(crashes=3)
    message.tracer = None
    settlement = bench.skip(message)
    result = result_of(settlement)
    assert (settlement.action, result.outcome, result.attempt) == ("bury", "crashed", 3)
    assert result.started_at is None
    assert "died 3 times" in settlement.reason


def test_a_task_past_its_deadline_is_stale(bench: Bench) -> None:
    settlement = bench.skip(bench.message(replace(TASK, deadline=time.time() - 1)))
    assert (settlement.action, settlement.outcome) == ("complete", "stale")
    in_time = bench.message(replace(TASK, deadline=time.time() + 1000))
    bench.results.before_process_message(bench.broker, in_time)
    assert in_time.settlement is None


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"[]",
        b'"text"',
        b'{"schema": 99}',
        b'{"schema": 1, "question": 7}',
        b'{"actor_name": 7}',
        b"[" * 5000,
    ],
)
def test_what_cannot_be_read_is_dead_with_a_reason(bench: Bench, payload: bytes) -> None:
    settlement = bench.skip(bench.message(payload=payload))
    assert (settlement.action, settlement.outcome) == ("bury", "infra_error")
    assert settlement.reason.startswith("FormatError: ")
    assert result_of(settlement).task_id == "t1"


def test_an_unknown_actor_is_dead_with_a_reason(bench: Bench) -> None:
    message = ClaimedMessage(Claim("t1", "nowhere_0", TASK.encode(), "worker-1", 1))
    assert "no actor 'nowhere_0' is known" in bench.skip(message).reason


def test_giving_up_buries_with_all_that_is_known(bench: Bench) -> None:
    settlement = bench.results.settlement_of(bench.broker, bench.message())
    result = result_of(settlement)
    assert (settlement.action, result.outcome, result.task_id) == ("bury", "infra_error", "t1")
    assert (result.collection, result.agent, result.metadata) == ("crew", "crew_0", {"mine": 1})


def test_a_cancelled_task_has_a_result_too() -> None:
    seen: dict[str, Any] = {"task_id": "t1", "queue": "crew_0", "submitted_at": 0.0}
    result = Result.cancelled(TASK, collection="crew", **seen)
    assert (result.outcome, result.task_id, result.agent) == ("cancelled", "t1", "crew_0")
    assert (result.attempt, result.reward, result.metadata) == (0, None, {"mine": 1})
    assert result.submitted_at == "1970-01-01T00:00:00.000000Z"
    assert result.task == TASK.as_sent()
    unread = Result.cancelled(None, collection=None, **seen)
    assert (unread.metadata, unread.task) == ({}, None)


def test_a_shortage_of_the_worker_returns_the_task_and_is_an_infra_error_in_the_end(
    bench: Bench,
) -> None:
    actions = []
    for failures in (0, 0, 1, 2):
        settlement = bench.end(bench.message(failures=failures), exception=MemoryError())
        actions.append(settlement.action)
        assert settlement.failure is None
    assert actions == ["release", "retry", "retry", "bury"]
    assert result_of(settlement).outcome == "infra_error"
    assert bench.results.capacity.free(10) == 0  # It claims nothing for a moment.


@pytest.mark.parametrize(("max_retries", "action"), [(2, "retry"), (0, "bury")])
def test_an_evaluator_that_meets_a_shortage_reduces_the_worker_and_does_not_count(
    bench: Bench, max_retries: int, action: str
) -> None:
    bench.declare(max_retries=max_retries)
    cause = OSError(errno.EMFILE, "Too many open files")
    broken = Evaluation(config={}, response="", passed=False, error="x", broken=True, cause=cause)
    run = Completed("x", (broken,), keepable=True)
    settlement = bench.end(result=run)
    assert (settlement.action, settlement.failure) == (action, None)
    assert bench.results.capacity.free(10) == 0


# What the breaker counts.


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


# Evaluators whose service failed.


def away(cause: BaseException | None = None) -> Evaluation:
    cause = cause or InfraError("the judge is away")
    return Evaluation({"func": "raw"}, "4", passed=False, error="away", broken=True, cause=cause)


def unjudged(answer: Any = "4", *evaluations: Evaluation, **more: Any) -> Completed:
    env = {"TOKEN": CANARY, "MODE": "on"}
    return Completed(answer, evaluations or (away(),), keepable=True, env=env, **more)


def judged_again(bench: Bench, before: Settlement, **claim: Any) -> ClaimedMessage:
    task = Task.decode(orjson.loads(before.payload))
    return bench.message(task, failures=1, **claim)


def kept_by(message: ClaimedMessage) -> KeptAnswer:
    assert message.task is not None
    assert message.task.answered is not None
    return KeptAnswer.opened(message.task.answered, {"TOKEN": CANARY, "MODE": "on"})


def test_an_answer_is_kept_while_a_service_of_an_evaluator_fails(bench: Bench) -> None:
    message = bench.message(failures=1, crashes=1)
    assert message.tracer is not None
    message.tracer.usage.add({"requests": 2, "usd": 0.5})
    with message.tracer.root():
        pass
    first = bench.end(message, result=unjudged({"x": 4}, evaluation(passed=True), away()))
    assert (first.action, first.usd, first.result) == ("retry", 0.5, b"")
    assert "InfraError" in first.reason
    assert 0 < first.delay_s <= 1.0
    again = judged_again(bench, first)
    kept = kept_by(again)
    assert (kept.answer, kept.attempt, kept.failures) == ({"x": 4}, 3, 1)
    assert (kept.usage, len(kept.trace)) == ({"requests": 2, "usd": 0.5}, 1)
    run = replace(unjudged({"x": 4}, evaluation(passed=True)), kept=kept)
    last = bench.end(again, result=run)
    result = result_of(last)
    assert (result.outcome, result.reward, result.result) == ("ok", 1.0, {"x": 4})
    assert (result.attempt, last.usd) == (3, 0.0)


def test_evaluators_have_tries_of_their_own_and_then_the_letter_has_the_answer(
    bench: Bench,
) -> None:
    first = bench.end(bench.message(failures=2), result=unjudged())
    kept = kept_by(judged_again(bench, first))
    assert first.action == "retry"
    for failures, action in ((3, "retry"), (4, "bury")):
        again = bench.message(Task.decode(orjson.loads(first.payload)), failures=failures)
        end = bench.end(again, result=unjudged(kept=kept))
        assert (end.action, end.payload) == (action, b"")
    result = result_of(end)
    assert (end.outcome, result.result, result.reward) == ("eval_error", "4", None)
    assert result.error == {"type": "EvaluationError", "message": "away", "traceback": None}
    assert end.reason.startswith("EvaluationError: an evaluator's service failed")


def test_a_refused_credential_of_an_evaluator_is_not_tried_again(bench: Bench) -> None:
    refused = away(InfraError("no", permanent=True))
    end = bench.end(result=unjudged("4", refused))
    assert (end.action, end.outcome) == ("bury", "eval_error")
    assert kept_by(judged_again(bench, end)).answer == "4"
    assert (result_of(end).error or {})["permanent"]


def test_a_broken_evaluator_beside_a_failing_service_is_final(bench: Bench) -> None:
    end = bench.end(result=unjudged("4", away(), evaluation(passed=False, broken=True)))
    assert (end.action, end.outcome, end.payload) == ("complete", "eval_error", b"")


def test_a_kept_answer_holds_no_credential_and_is_judged_whole(bench: Bench) -> None:
    answer = {f"{CANARY} is it": [f"I say {CANARY}", "on"]}
    message = bench.message()
    assert message.tracer is not None
    with message.tracer.root() as span:
        span.add({"response": CANARY})
    end = bench.end(message, result=unjudged(answer))
    for form in (CANARY, orjson.dumps(CANARY)[1:-1].decode()):
        assert form not in end.payload.decode()
    assert MASK in end.payload.decode()
    assert kept_by(judged_again(bench, end)).answer == answer


def test_an_answer_whose_credential_cannot_be_given_back_is_not_kept(bench: Bench) -> None:
    end = bench.end(result=unjudged(f"hex {CANARY.encode().hex()}"))
    assert (end.action, end.outcome, end.payload) == ("bury", "eval_error", b"")
    assert (result_of(end).result or "").startswith("hex ***")


def test_an_answer_that_waits_is_judged_after_its_deadline(bench: Bench) -> None:
    task = replace(TASK, deadline=1.0)
    end = bench.end(bench.message(task), result=unjudged())
    bench.results.before_process_message(bench.broker, judged_again(bench, end))


def test_any_answer_is_given_back_as_it_was() -> None:
    env = {"A": "alpha", "B": "alphabet", "C": "A", "D": "true", "E": "<abcd>", "F": "beta:B"}
    redactor = Redactor(env.values())
    parts = [*env.values(), "<", ":", "A>", "B>", " "]
    draw = random.Random(7)
    for _ in range(300):
        text = "".join(draw.choices(parts, k=draw.randrange(8)))
        answer = draw.choice([text, {text: [text, 1, None]}, [text, {"x": text}]])
        sealed = KeptAnswer(answer, 1, 0).sealed(env, redactor)
        assert sealed is not None
        assert not redactor.occurs_in(orjson.dumps(sealed))
        assert KeptAnswer.opened(orjson.loads(orjson.dumps(sealed)), env).answer == answer
