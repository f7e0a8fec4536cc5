"""Verdicts: reads what a user's function returned: passed or not, or a score from 0 to 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agentpipe.evaluation.chain import BrokenEvaluatorError, WrongAnswerError, show

# A mean of floats can exceed 1 by rounding.
_ROUNDING = 1e-9
_EXPECTED = (
    "without an op, return a bool, a float from 0 to 1, (either, reason), "
    '{"passed": bool, "reason": string} or {"score": number, "reason": string}'
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A function's judgement of an answer.

    Attributes:
        score: From 0 to 1; None if the function only returned whether the answer passed.
    """

    passed: bool
    score: float | None = None
    reason: str = ""


def read_verdict(func: str, returned: Any) -> Verdict:
    """Read the verdict in ``returned``, which may contain numpy scalars.

    Raises:
        WrongAnswerError: The answer did not pass; the message is the function's reason.
        BrokenEvaluatorError: ``returned`` is not a verdict.
    """
    verdict = _verdict(func, returned)
    if not verdict.passed and verdict.score is None:
        raise WrongAnswerError(verdict.reason or f"{func} returned false")
    return verdict


def _verdict(func: str, returned: Any) -> Verdict:
    if type(returned) is dict:
        return _from_dict(func, returned)
    judged, reason = returned, ""
    if type(returned) is tuple and len(returned) == len(("judged", "reason")):
        judged, reason = returned
    judged = _plain(judged)
    if type(reason) is not str:
        raise _broken(func, returned)
    if type(judged) is bool:
        return Verdict(judged, None, reason)
    if type(judged) is float:
        return _graded(func, judged, reason)
    raise _broken(func, returned)


def _from_dict(func: str, returned: dict[Any, Any]) -> Verdict:
    passed, reason = _plain(returned.get("passed")), returned.get("reason", "")
    score = _plain(returned.get("score"))
    if type(reason) is not str or type(passed) not in (bool, type(None)):
        raise _broken(func, returned)
    if type(score) in (int, float):
        return _graded(func, float(score), reason, passed=passed)
    if score is not None or passed is None:
        raise _broken(func, returned)
    return Verdict(passed, None, reason)


def _graded(func: str, score: float, reason: str, *, passed: bool | None = None) -> Verdict:
    if not -_ROUNDING <= score <= 1 + _ROUNDING:  # Also true for NaN.
        raise BrokenEvaluatorError(f"{func} returned the score {score}: return one from 0 to 1")
    score = min(max(score, 0.0), 1.0)
    if passed is None:
        passed = score == 1
    return Verdict(passed, score, reason if passed else reason or f"the score is {score:g}")


def _broken(func: str, returned: Any) -> BrokenEvaluatorError:
    return BrokenEvaluatorError(f"{func} returned {show(returned)}: {_EXPECTED}")


def _plain(value: Any) -> Any:
    """A numpy scalar as a Python one; does not import numpy."""
    names = {kind.__name__ for kind in type(value).__mro__ if kind.__module__ == "numpy"}
    if names & {"bool", "bool_"}:
        return bool(value)
    return float(value) if "floating" in names else value
