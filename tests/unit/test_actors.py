from __future__ import annotations

import asyncio
import calendar
import inspect
import json
import re
from collections import Counter
from datetime import date
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from agentpipe.config.function_scope import FunctionScope
from agentpipe.config.imports import locate
from agentpipe.core.task import Task
from agentpipe.evaluation.checks import evaluator_problems
from agentpipe.evaluation.evaluators import Evaluation, evaluate, reward

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
SEARCH = (CONFIGS, ROOT)
TASKS = [
    Task.load(json.loads(line))
    for line in (CONFIGS / "almanac-tasks.jsonl").read_text().splitlines()
]
RIGHT_BY_TOPIC = {
    "weekday": (38, 38),
    "arithmetic": (34, 34),
    "days between": (30, 30),
    "shifted date": (30, 30),
    "month length": (9, 12),
    "leap year": (8, 11),
    "dates of a weekday": (9, 10),
    "units": (8, 8),
    "business days": (5, 7),
    "percent": (6, 6),
    "age": (1, 6),
    "word problem": (0, 6),
    "ISO week": (0, 2),
}


def ask(agent: Any, question: str, env: dict[str, str] | None = None) -> Any:
    context = SimpleNamespace(env=env or {}, metadata={})
    return asyncio.run(agent.execute(Task(question=question), context))


def almanac(**config: Any) -> Any:
    return locate("actors.almanac:Almanac", SEARCH)(**{"pause_s": 0, **config})


def answer(question: str) -> Any:
    return json.loads(ask(almanac(), question))["answer"]


async def judge_all() -> list[tuple[Task, list[Evaluation]]]:
    agent, context = almanac(), SimpleNamespace(env={}, metadata={})
    return [
        (task, await evaluate(task.evaluators, await agent.execute(task, context), task))
        for task in TASKS
    ]


def test_echo_gives_the_question_back() -> None:
    assert ask(locate("actors.echo:Echo", SEARCH)(), "Is anybody there?") == "Is anybody there?"


def test_almanac_answers_json_text() -> None:
    assert ask(almanac(), "What day of the week was 2024-02-29?") == (
        '{"answer": "Thursday", "stamp": "-"}'
    )


def test_almanac_is_right_within_its_rules() -> None:
    assert answer("How many days are between 2023-01-15 and 2024-03-01?") == 411
    assert answer("What is 17 * 23?") == 391
    assert answer("Which date is 45 days after 2025-12-20?") == "2026-02-03"


def test_almanac_is_honestly_wrong_beyond_them() -> None:
    assert answer("Is 1900 a leap year?") == "yes"
    assert answer("What is the meaning of life?") == "I don't know."


@pytest.mark.parametrize(
    "question",
    [
        "",
        "What is 1 / 0?",
        "What day of the week was 2023-02-30?",
        "Which date is 99999999999999999999 days after 2024-01-01?",
        "How many moons are in 3 days?",
        "Which dates are the Mondays of Brumaire 1799?",
        f"What is {'9' * 5000} * 2?",
        f"What is {'9' * 400} / 7?",
    ],
)
def test_almanac_survives_any_question(question: str) -> None:
    assert answer(question) == "I don't know."


def test_the_stamp_tells_the_desk_and_not_the_env_value() -> None:
    texts = [
        ask(almanac(), "What is 1 + 1?", {"ALMANAC_DESK": desk})
        for desk in ("desk-east", "desk-west")
    ]
    assert [json.loads(text)["stamp"] for text in texts] == ["E", "W"]
    assert not any("desk" in text for text in texts)


def test_almanac_passes_178_of_its_200_tasks() -> None:
    judged = asyncio.run(judge_all())
    assert not any(evaluation.broken for _, found in judged for evaluation in found)
    right = Counter(task.metadata["topic"] for task, found in judged if reward(found) == 1.0)
    total = Counter(task.metadata["topic"] for task, _ in judged)
    assert {topic: (right[topic], total[topic]) for topic in total} == RIGHT_BY_TOPIC
    assert (right.total(), total.total()) == (178, 200)


def test_the_tasks_have_ids_in_order_and_sound_evaluators() -> None:
    assert [task.task_id for task in TASKS] == [f"almanac-{n:03}" for n in range(1, 201)]
    assert len({task.question for task in TASKS}) == 200
    for task in TASKS:
        assert evaluator_problems(task.evaluators, FunctionScope(CONFIGS)) == []


# The correct answer of each task, computed in another way than the agent does: by counting days
# from year 1.


def ordinal(day: str) -> int:
    year, month, number = map(int, day.split("-"))
    before = sum(365 + calendar.isleap(past) for past in range(1, year))
    return before + sum(calendar.monthrange(year, past)[1] for past in range(1, month)) + number


def weekday(number: int) -> str:
    return calendar.day_name[(number - 1) % 7]


def month_number(name: str) -> int:
    return list(calendar.month_name).index(name)


def dates_of(name: str, month: str, year: str) -> list[str]:
    column = list(calendar.day_name).index(name)
    weeks = calendar.monthcalendar(int(year), month_number(month))
    return [f"{year}-{month_number(month):02}-{w[column]:02}" for w in weeks if w[column]]


def iso_week(day: str) -> int:
    thursday = ordinal(day) - (ordinal(day) - 1) % 7 + 3
    return (thursday - ordinal(f"{date.fromordinal(thursday).year}-01-01")) // 7 + 1


def shifted(days: str, direction: str, day: str) -> str:
    moved = ordinal(day) + (int(days) if direction == "after" else -int(days))
    return date.fromordinal(moved).isoformat()


def business_days(first: str, last: str) -> int:
    days = range(ordinal(first), ordinal(last))
    return sum(weekday(number) not in {"Saturday", "Sunday"} for number in days)


def age(birth: str, day: str) -> int:
    birthday_is_over = day[5:] >= birth[5:]
    return int(day[:4]) - int(birth[:4]) - (not birthday_is_over)


DAY = r"(\d{4}-\d\d-\d\d)"
HOURS = {"week": 168.0, "day": 24.0, "hour": 1.0, "minute": 1 / 60, "second": 1 / 3600}
TRUTHS: dict[str, tuple[str, Callable[..., Any]]] = {
    "weekday": (rf"week (?:was|will be) {DAY}", lambda day: weekday(ordinal(day))),
    "days between": (rf"{DAY} and {DAY}", lambda a, b: ordinal(b) - ordinal(a)),
    "shifted date": (rf"(\d+) days (after|before) {DAY}", shifted),
    "percent": (r"(\d+) % of (\d+)", lambda share, whole: Fraction(int(share), 100) * int(whole)),
    "units": (
        r"many (\w+)s are in (\d+) (\w+)s",
        lambda small, n, large: round(int(n) * HOURS[large] / HOURS[small]),
    ),
    "dates of a weekday": (r"the (\w+)s of (\w+) (\d+)", dates_of),
    "month length": (
        r"does (\w+) (\d+)",
        lambda month, year: calendar.monthrange(int(year), month_number(month))[1],
    ),
    "leap year": (r"Is (\d+)", lambda year: "yes" if calendar.isleap(int(year)) else "no"),
    "age": (rf"{DAY} on {DAY}", age),
    "business days": (rf"{DAY} up to but not including {DAY}", business_days),
    "ISO week": (rf"is {DAY} in", iso_week),
}


def arithmetic(question: str) -> int:
    left, sign, right = question.removeprefix("What is ").removesuffix("?").split()
    a, b = int(left), int(right)
    if sign == "/":
        quotient, rest = divmod(a, b)
        assert rest == 0
        return quotient
    return {"+": a + b, "-": a - b, "*": a * b}[sign]


def word_problem(question: str) -> int:
    first, second, *more = map(int, re.findall(r"\d+", question))
    if question.startswith("A shelf"):
        return first * second - more[0]
    assert question.startswith("A train")
    return first - second + 2 * second


def truth(task: Task) -> Any:
    topic = task.metadata["topic"]
    if topic in {"arithmetic", "word problem"}:
        return {"arithmetic": arithmetic, "word problem": word_problem}[topic](task.question)
    pattern, find = TRUTHS[topic]
    match = re.search(pattern, task.question)
    assert match is not None
    return find(*match.groups())


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.task_id)
def test_the_task_states_the_truth(task: Task) -> None:
    true = truth(task)
    values = [config["value"] for config in task.evaluators]
    if task.metadata["topic"] == "dates of a weekday":
        assert values == [len(true), true, true[0][:8]]
    else:
        assert values == [true]


# Configs.


@pytest.mark.parametrize("name", ["almanac", "echo"])
def test_the_configs_fit_together_and_begin_with_their_command(name: str) -> None:
    files = [CONFIGS / f"{name}.yaml", CONFIGS / f"{name}-agent.yaml"]
    command = f"# agentpipe work -c configs/{name}.yaml --burst\n"
    assert all(file.read_text().startswith(command) for file in files)
    collection, agent = (yaml.safe_load(file.read_text()) for file in files)
    assert collection["spec"]["name"] == name
    assert CONFIGS / collection["spec"]["config"] == files[1]
    config = agent["spec"]["config"]
    inspect.signature(locate(config.pop("class"), SEARCH)).bind(**config)


def test_the_almanac_has_four_agents_at_two_desks() -> None:
    spec = yaml.safe_load((CONFIGS / "almanac.yaml").read_text())["spec"]
    assert spec["number"] * len(spec["context"]) == 4
    assert (spec["max_queue_size"], spec["time_limit"]) == (100, 30)
