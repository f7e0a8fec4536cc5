"""Answers whose evaluators could not judge them are kept and judged again."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.core.redaction import Redactor
from agentpipe.core.secret_forms import MASK
from agentpipe.core.task import Task
from agentpipe.errors import (
    InfraError,
)
from agentpipe.evaluation.kept_answer import KeptAnswer
from tests.unit.settlements import CANARY, TASK, Bench, away, evaluation, result_of, unjudged

if TYPE_CHECKING:
    from agentpipe.brokers.records import Settlement
    from agentpipe.worker.running.message import ClaimedMessage


# Evaluators whose service failed.


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
