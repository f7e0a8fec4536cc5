"""Results as rows: one type per column, and every file holds what the results hold."""

from __future__ import annotations

import csv
import io
import json

import orjson
import pytest

from agentpipe.archive.export.columns import COLUMNS, TRACE, columns, row
from agentpipe.archive.export.csv_table import write_csv
from agentpipe.archive.export.jsonl import write_jsonl
from agentpipe.core.result import Result

ALL = columns(trace=True)
TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "json": str,
    "time": str,
    "integer": int,
    "number": float,
    "boolean": bool,
}
WHOLE = Result(
    task_id="v2/p7/3",
    run="v2",
    collection="crew",
    agent="crew_0",
    group_id="v2/p7",
    sample_index=3,
    group_size=4,
    attempt=1,
    stop="stop",
    reward=1,
    rewards={"exact": 1.0},
    reward_trustworthy=True,
    result={"sum": 4},
    evaluation_results=[{"passed": True}],
    usage={"requests": 2, "input_tokens": 10.0, "output_tokens": 5, "usd": 1},
    submitted_at="2026-01-01T00:00:00.000000Z",
    started_at="2026-01-01T02:00:01+02:00",
    finished_at="2026-01-01T00:00:02.500000Z",
    policy_version=7,
    seed=2**63 - 1,
    metadata={"level": "hard"},
    task={"question": "2 and 2?", "category": "sums", "evaluators": []},
    trace=[{"records": [{"data": {"response": ["a", "list"]}}]}, {"records": []}],
)
# What other programs can write that still decodes as a Result.
ODD = Result(
    task_id="odd",
    result='NUL \0, quote ", comma, line\r\nbreak, 你好 🙂 \ud83d',
    reward=10**400,
    seed=2**64 - 1,
    usage={"requests": "many", "input_tokens": 2**70, "output_tokens": True, "usd": [1]},
    error={"type": 5, "message": {"a": [None]}, "permanent": "yes"},
    submitted_at="yesterday",
    finished_at="0001-01-01T00:00:00+14:00",
    trace=[{"records": "none"}],
)


def test_each_value_has_the_type_of_its_column() -> None:
    for result in (WHOLE, ODD, Result(task_id="bare")):
        for each in COLUMNS:
            value = each.value(result)
            assert value is None or type(value) is TYPES[each.kind], (each.name, value)


def test_a_row_holds_what_the_result_holds() -> None:
    values = row(WHOLE, ALL)
    assert values["result"] == '{"sum":4}'
    assert (values["result_is_json"], values["reward"], values["policy_version"]) == (
        True,
        1.0,
        "7",
    )
    assert (values["input_tokens"], values["usd"], values["cached_tokens"]) == (10, 1.0, None)
    assert values["started_at"] == "2026-01-01T00:00:01.000000Z"
    assert values["run_s"] == 1.5
    assert json.loads(str(values["trace"])) == WHOLE.trace
    assert json.loads(str(values["usage"])) == WHOLE.usage
    assert (values["question"], values["category"]) == ("2 and 2?", "sums")
    assert json.loads(str(values["task"])) == WHOLE.task


def test_what_is_not_of_the_columns_type_is_null_and_stays_in_the_json() -> None:
    values = row(ODD, ALL)
    for name in ("reward", "seed", "requests", "input_tokens", "output_tokens", "usd"):
        assert values[name] is None, name
    assert (values["submitted_at"], values["finished_at"]) == (None, None)
    assert (values["error_type"], values["error_permanent"]) == ("5", None)
    assert json.loads(str(values["usage"]))["input_tokens"] == 2**70


def test_the_answer_is_text_or_json_and_says_which() -> None:
    for answer, text, is_json in (("5", "5", False), (5, "5", True), (None, None, None)):
        values = row(Result(result=answer), ALL)
        assert (values["result"], values["result_is_json"]) == (text, is_json)


def test_without_traces_only_that_column_is_missing() -> None:
    names = [each.name for each in columns(trace=False)]
    assert names == [each.name for each in COLUMNS if each.name != TRACE]


def test_jsonl_has_a_row_a_line() -> None:
    file = io.BytesIO()
    assert write_jsonl(iter([WHOLE, ODD]), file, ALL) == 2
    lines = [orjson.loads(line) for line in file.getvalue().splitlines()]
    assert lines == [row(WHOLE, ALL), row(ODD, ALL)]


def cells(*results: Result, raw: bool = False) -> list[dict[str, str]]:
    file = io.BytesIO()
    write_csv(iter(results), file, ALL, raw=raw)
    return list(csv.DictReader(io.StringIO(file.getvalue().decode(), newline="")))


def test_csv_keeps_every_text_but_nul() -> None:
    (line,) = cells(ODD)
    assert line["result"] == str(row(ODD, ALL)["result"]).replace("\0", "\ufffd")
    (line,) = cells(WHOLE)
    assert (line["reward"], line["reward_trustworthy"], line["stop"]) == ("1.0", "true", "stop")
    assert line["error_type"] == ""


def test_csv_ends_lines_as_rfc_4180_does() -> None:
    file = io.BytesIO()
    write_csv(iter([Result(task_id="a\nb")]), file, ALL[:2])
    assert file.getvalue() == b'task_id,run\r\n"a\nb",\r\n'


@pytest.mark.parametrize(
    "text", ["=1+1", "+SUM(A1)", "-cmd|' /C calc'!A0", "@x", "\t=1", "\r=1", "\uff1d1"]
)
def test_no_cell_of_csv_is_a_formula(text: str) -> None:
    (line,) = cells(Result(task_id="x", result=text))
    assert line["result"] == f"'{text}"
    (line,) = cells(Result(task_id="x", result=text), raw=True)
    assert line["result"] == text


@pytest.mark.parametrize("text", ["-5", "+3.25", "-1e9", "a=b", "", "5"])
def test_numbers_and_other_text_stay_as_they_are_in_csv(text: str) -> None:
    (line,) = cells(Result(task_id="x", result=text))
    assert line["result"] == text


@pytest.mark.parametrize("text", ["'=1", "'tis", "''", "=", "-5"])
def test_the_first_quote_of_a_cell_can_always_be_taken_away(text: str) -> None:
    (line,) = cells(Result(task_id="x", result=text))
    assert line["result"].removeprefix("'") == text
