"""Almanac: answers questions about dates and numbers with a few simple rules, offline.

Its answers are right where its rule is, and wrong where the rule is too simple (leap years, ages,
business days, week numbers). Without a rule it answers "I don't know.": material to evaluate.
"""

from __future__ import annotations

import asyncio
import json
import operator
import re
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_MONTHS = [
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
]
_MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}
_STAMPS = {"desk-east": "E", "desk-west": "W"}


class Almanac:
    """Answers with a JSON string, ``{"answer": ..., "stamp": ...}``.

    The stamp shows which desk answered. It is looked up, because an answer must never contain the
    value of an env variable.
    """

    def __init__(self, pause_s: float = 0.05) -> None:
        self.pause_s = pause_s

    async def execute(self, task: Any, context: Any) -> str:
        """Wait for ``pause_s``, then answer by the first rule that matches the question."""
        await asyncio.sleep(self.pause_s)
        stamp = _STAMPS.get(context.env.get("ALMANAC_DESK", ""), "-")
        return json.dumps({"answer": _answer(task.question), "stamp": stamp})


def _answer(question: str) -> Any:
    for pattern, rule in _RULES:
        match = re.fullmatch(pattern, question)
        if match:
            try:
                return rule(*match.groups())
            except (ValueError, ArithmeticError, KeyError):
                break  # 30 February, a division by zero, an unknown unit
    return "I don't know."


def _weekday(day: str) -> str:
    return _WEEKDAYS[date.fromisoformat(day).weekday()]


def _days_between(first: str, last: str) -> int:
    return (date.fromisoformat(last) - date.fromisoformat(first)).days


def _shifted(days: str, direction: str, day: str) -> str:
    shift = timedelta(days=int(days))
    start = date.fromisoformat(day)
    return (start + shift if direction == "after" else start - shift).isoformat()


def _calculated(left: str, sign: str, right: str) -> float:
    operators: dict[str, Callable[[int, int], float]] = {
        "+": operator.add,
        "-": operator.sub,
        "*": operator.mul,
        "/": operator.truediv,
    }
    return operators[sign](int(left), int(right))


def _percent(share: str, whole: str) -> float:
    return int(share) * int(whole) / 100


def _converted(small: str, number: str, large: str) -> float:
    return int(number) * _SECONDS[large] / _SECONDS[small]


def _listed(weekday: str, month: str, year: str) -> list[str]:
    first = date(int(year), _MONTHS.index(month) + 1, 1)
    days = (first + timedelta(days=number) for number in range(_MONTH_DAYS[first.month - 1]))
    return [day.isoformat() for day in days if _WEEKDAYS[day.weekday()] == weekday]


def _month_length(month: str, _year: str) -> int:
    return _MONTH_DAYS[_MONTHS.index(month)]  # too simple: February


def _leap(year: str) -> str:
    return "no" if int(year) % 4 else "yes"  # too simple: centuries


def _age(birth: str, day: str) -> int:
    return int(day[:4]) - int(birth[:4])  # too simple: before the birthday


def _business_days(first: str, last: str) -> int:
    return _days_between(first, last) * 5 // 7  # too simple: where the weekends lie


def _week(day: str) -> int:
    moment = date.fromisoformat(day)
    return (
        moment - date(moment.year, 1, 1)
    ).days // 7 + 1  # too simple: ISO weeks begin on Mondays


_DAY = r"(\d{4}-\d\d-\d\d)"
_RULES: tuple[tuple[str, Callable[..., Any]], ...] = (
    (rf"What day of the week (?:was|is|will be) {_DAY}\?", _weekday),
    (rf"How many days are between {_DAY} and {_DAY}\?", _days_between),
    (rf"Which date is (\d+) days (after|before) {_DAY}\?", _shifted),
    (r"What is (\d+) ([-+*/]) (\d+)\?", _calculated),
    (r"What is (\d+) % of (\d+)\?", _percent),
    (r"How many (\w+)s are in (\d+) (\w+?)s?\?", _converted),
    (r"Which dates are the (\w+)s of (\w+) (\d{4})\?", _listed),
    (r"How many days does (\w+) (\d{4}) have\?", _month_length),
    (r"Is (\d{4}) a leap year\?", _leap),
    (rf"How old is somebody born on {_DAY} on {_DAY}\?", _age),
    (rf"How many business days are from {_DAY} up to but not including {_DAY}\?", _business_days),
    (rf"Which ISO week is {_DAY} in\?", _week),
)
