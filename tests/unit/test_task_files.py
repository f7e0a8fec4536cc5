"""Task files are read whole or line by line, and mistakes are reported with their line."""

from __future__ import annotations

import io
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.config.yaml_source import load_documents
from agentpipe.errors import ConfigError
from agentpipe.sending.checked_tasks import checked_tasks
from agentpipe.sending.task_files import (
    MAX_DOCUMENT_BYTES,
    entries_of,
    is_document,
    load_tasks,
    read_document,
    read_lines,
    task_of,
)

if TYPE_CHECKING:
    from pathlib import Path

ODD: list[Any] = [
    None,
    True,
    -1.5e3,
    "",
    [],
    {},
    [[]],
    {"a": {}},
    {"": [1, {"b": [None, 'é\n"\\']}]},
    [[[[[[{"deep": [1]}]]]]]],
    {"question": "x", "evaluators": [{"func": "json", "value": [{"a": 1}]}]},
]


def write(folder: Path, text: str | bytes, name: str = "task.json") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("indent", [None, 2])
def test_what_json_reads_is_read(tmp_path: Path, value: Any, indent: int | None) -> None:
    text = "\ufeff \n" + json.dumps(value, indent=indent) + "\r\n\t"
    assert read_document(write(tmp_path, text)).data == value


BROKEN = {
    "": (1, "expecting value"),
    "\n\n": (3, "expecting value"),
    "{": (1, "expecting"),
    '{"a"\n1}': (2, "':' is missing"),
    '{"a": 1,\n}': (2, "expecting"),
    "[1\n2]": (2, "',' is missing"),
    "[1,\n\n]": (3, "expecting"),
    "{1: 2}": (1, "a key must be a string"),
    '{"a": 1}\n{"b": 2': (2, "data after the end"),
    "[\n\n NaN]": (3, "NaN is not JSON"),
    '{"a": 1,\n "b": 2,\n "a": 3}': (3, "duplicate key 'a', first in line 1"),
    '{"e": [{"v": {"d": [\n{"x": 1, "x": 2}]}}]}': (1, "duplicate key 'x'"),
    "[" * 100_000: (1, "nested too deeply"),
    "[" + "1" * 5000 + "]": (1, "more than 64 bits: write it as a string"),
    '[1,\n {"a": 123456789012345678901234567890}]': (2, "more than 64 bits: write it as a string"),
    "[\n-9223372036854775809]": (2, "more than 64 bits"),
    "[" + "1," * 200_100 + "1]": (1, "a task per line"),
    '{"a": "half': (1, "unterminated"),
    '{"a": "\n"}': (1, "control character"),
}


@pytest.mark.parametrize("text", BROKEN, ids=lambda text: text[:20])
def test_what_is_no_json_is_told_with_its_line(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    line, words = BROKEN[text]
    with pytest.raises(ConfigError) as caught:
        read_document(path)
    (problem,) = caught.value.problems
    assert words in problem.message
    assert (problem.file, problem.line) == (str(path), line)


TWICE = [
    '{"question": "x", "question": "y"}',
    '{"question" : "x", "question" :"y"}',
    '{"question": "x", "q\\u0075estion": "y"}',
    # Neither the number of `":` nor that of the keys shows these.
    '{"a" : 1, "b": 2, "b": 3}',
    '{"a": "\\u0022:", "b": 2, "b": 3}',
    '{"a": "\\"\\u003A", "b": 2, "b": 3}',
    '{"question": "x", "evaluators": [{"func": "json"}, {"op": "=", "op": ">"}]}',
    '{"a": ' + "[" * 300 + '{"x": 1, "x": 2}' + "]" * 300 + "}",
]


@pytest.mark.parametrize("text", TWICE, ids=lambda text: text[:20])
def test_a_key_that_a_line_has_twice_is_refused_with_its_line(text: str) -> None:
    found = list(read_lines("t.jsonl", io.BytesIO(b'{"question": "a"}\n' + text.encode())))
    assert [entry.line for entry in found] == [1, 2]
    assert [bool(entry.error) for entry in found] == [False, True]
    assert re.match("not taken: duplicate key '.*': keep one", found[1].error)


ONCE = [
    '{"question": "x", "metadata": {"question": "y"}}',
    '{"question" : "\\":", "output_format"\t: {"a": {"a": 1}}}',
    '{"question": "a\\u0022: b", "category": "\\"\\u003a"}',
    '[{"question": "x"}, {"question": "x"}]',
]


@pytest.mark.parametrize("text", ONCE)
def test_a_key_that_several_objects_of_a_line_have_is_read(text: str) -> None:
    (entry,) = read_lines("t.jsonl", io.BytesIO(text.encode()))
    assert (entry.data, entry.error) == (json.loads(text), "")


def test_a_line_that_nests_too_deeply_is_told_with_its_line() -> None:
    deep = b"[" * 1_010 + b"1" * 20 + b"]" * 1_010
    (entry,) = read_lines("t.jsonl", io.BytesIO(deep))
    # Since Python 3.12 the nesting is accepted, and the number is not.
    assert re.search("nested too deeply|more than 64 bits", entry.error)


def test_files_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    with (tmp_path / "big.json").open("wb") as stream:
        stream.truncate(MAX_DOCUMENT_BYTES + 1)
    write(tmp_path, b'{"a": "\xff"}', "binary.json")
    for name, words in (
        ("big.json", "larger than 64 MB"),
        ("binary.json", "not UTF-8"),
        ("none.json", "no such file"),
        ("", "a folder"),
    ):
        with pytest.raises(ConfigError, match=words):
            read_document(tmp_path / name)


TWO = """[
  {"question": "fine"},
  {
    "question": "x",
    "evaluators": [
      {"func": "json", "op": "="},
      {
        "func": "jso",
        "op": "=="
      }
    ]
  },
  {"questoin": "y"},
  7
]"""


def test_each_mistake_is_told_with_the_line_of_its_part(tmp_path: Path) -> None:
    path = write(tmp_path, TWO)
    with pytest.raises(ConfigError) as caught:
        load_tasks(path)
    found = [(problem.line, problem.message) for problem in caught.value.problems]
    assert [line for line, _ in found] == [8, 9, 13, 14]
    words = ("evaluators[1]: func: unknown", "evaluators[1]: op:", "'question'", "JSON object")
    assert all(word in message for word, (_, message) in zip(words, found, strict=True))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"question": "\\ud800"}', "not JSON"),
        ('{"seed": 99999999999999999999}', "64 bits"),
        ('{"metadata": {"a": 99999999999999999999}}', "64 bits"),
        ('{"question": "\\u0000"}', "NUL"),
        ('{"metadata": ' + '{"a":' * 60 + "1" + "}" * 61, "50"),
        ('{"question": "' + "x" * 11_000_000 + '"}', "10,485,760"),
    ],
)
def test_what_no_broker_could_take_is_told(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_tasks(write(tmp_path, text))


def test_one_object_and_a_list_are_tasks_with_fresh_ids(tmp_path: Path) -> None:
    (one,) = load_tasks(write(tmp_path, '{"question": "a", "task_id": "mine"}'))
    assert (one.task.question, one.task.task_id) == ("a", "mine")
    first, second = load_tasks(write(tmp_path, '[{"question": "a"}, "b"]'))
    assert (first.task.question, second.task.question) == ("a", "b")
    assert first.task.task_id
    assert first.task.task_id != second.task.task_id
    assert load_tasks(write(tmp_path, "[]")) == []


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.json", '{"question": "x"}\n', True),
        ("a.json", '[{"question": "x"}]\n\n', True),
        ("a.json", '{\n "question": "x"\n}\n', True),
        ("a.json", "[\n 1\n]", True),
        ("a.json", '{"question": "x"}\n\n{"question": "y"}\n', False),
        ("a.json", '{"question": "x"}\n{"question": broken\n', True),
        ("A.JSON", "{}", True),
        ("a.jsonl", '{"question": "x"}\n', False),
        ("a.txt", "{}", False),
        ("a.json", "", True),
    ],
)
def test_a_document_is_told_from_a_task_a_line(
    tmp_path: Path, name: str, text: str, *, expected: bool
) -> None:
    assert is_document(write(tmp_path, text, name)) is expected


def test_lines_are_read_one_by_one(tmp_path: Path) -> None:
    path = write(tmp_path, '\n{"question": "a"}\n{"question": }\n"b"\n', "tasks.jsonl")
    with path.open("rb") as stream:
        entries = list(read_lines("here", stream))
    assert [(entry.line, bool(entry.error)) for entry in entries] == [(2, 0), (3, 1), (4, 0)]
    task, problems = task_of(entries[1])
    assert task is None
    assert str(problems[0]).startswith("here:3: not JSON: ")


def test_there_is_an_end_to_what_is_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentpipe.config.lined_json.MAX_PARTS", 100)
    path = write(tmp_path, '{"metadata": {"a": [' + "1," * 100 + "1]}}")
    with pytest.raises(ConfigError, match="write a task per line"):
        read_document(path)


def test_a_long_list_is_read_though_not_every_line_of_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentpipe.config.lined_json.MAX_LINED", 100)
    one = {"question": "x", "evaluators": [{"func": "raw", "op": "=", "value": 1}] * 3}
    text = "[" + ",\n".join([json.dumps(one)] * 300) + ',\n{"question": 5}]'
    with pytest.raises(ConfigError) as caught:
        load_tasks(write(tmp_path, text))
    assert [problem.line for problem in caught.value.problems] == [301]


def test_entries_keep_the_lines_of_their_own_parts(tmp_path: Path) -> None:
    first, second = entries_of(read_document(write(tmp_path, '[\n{},\n{"a":\n1}]')))
    assert (first.line, second.line) == (2, 3)
    assert second.problem("a: is wrong").line == 3
    assert second.problem("b: is wrong").line == 3
    assert second.problem("a[999]: is wrong").line == 3


def test_all_mistakes_of_a_line_are_told(tmp_path: Path) -> None:
    task = {
        "qestion": "x",
        "seed": "y",
        "category": 5,
        "group_size": 0,
        "evaluators": [{"func": "raw", "op": "=="}, {"func": "nonsense"}],
    }
    lines = tmp_path / "tasks.jsonl"
    lines.write_text(f'{{"question": "q"}}\n{json.dumps(task)}\n')
    pretty = tmp_path / "task.json"
    pretty.write_text(json.dumps(task, indent=1))
    told = {}
    for file in (lines, pretty):
        with pytest.raises(ConfigError) as caught:
            list(checked_tasks(file))
        told[file.name] = {problem.line for problem in caught.value.problems}
        said = [problem.message for problem in caught.value.problems]
        words = ("did you mean 'question'", "seed: ", "category: ", "group_size: ", "[0]", "[1]")
        assert all(any(word in text for text in said) for word in words), said
        assert len(said) == len(words)
    assert told == {"tasks.jsonl": {2}, "task.json": {2, 3, 4, 5, 9, 12}}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('{"question": "q"}\n{"question": q}', 2, "(column 14)"),
        ('{"question": "q"}\n\nnonsense', 3, "(column 1)"),
        ('{"question": "q"}\n{"question": "q",}\n', 2, "(column 17)"),
        ('{"question": "q", "metadata": {"n": 18446744073709551616}}', 1, "has more than 64 bits"),
        (
            '{"question": "q"}\n{"question": "q", "seed": ' + "9" * 5000 + "}",
            2,
            "number is infinity",
        ),
        (b'{"question": "q"}\n{"question": "\xff"}', 2, "byte 15 is not UTF-8: save the file"),
    ],
)
def test_a_line_that_is_no_json_is_told_with_its_column(
    tmp_path: Path, text: str | bytes, line: int, words: str
) -> None:
    file = write(tmp_path, text, "tasks.jsonl")
    with pytest.raises(ConfigError) as caught:
        list(checked_tasks(file))
    (problem,) = caught.value.problems
    assert (problem.line, words in problem.message) == (line, True), problem
    assert "line 1" not in str(problem)


def test_integers_of_64_bits_keep_their_digits(tmp_path: Path) -> None:
    numbers = [-(2**63), 2**63 - 1, 2**64 - 1]
    text = json.dumps({"question": f"{2**70}", "metadata": {"n": numbers}})
    for name in ("tasks.jsonl", "task.json"):
        (task,) = checked_tasks(write(tmp_path, text, name))
        assert task.task.metadata == {"n": numbers}


def test_a_document_that_is_no_json_is_told_with_its_column(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_tasks(write(tmp_path, '{"question": "q",\n "seed": x}'))
    (problem,) = caught.value.problems
    assert (problem.line, problem.message) == (2, "not JSON: expecting value (column 10)")


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["tasks.jsonl", "task.json", "agent.yaml"])
def test_a_file_of_wide_characters_says_what_to_do(tmp_path: Path, name: str, coding: str) -> None:
    text = '{"question": "one"}\n' * (3 if name == "tasks.jsonl" else 1)
    file = write(tmp_path, text.encode(coding), name)
    with pytest.raises(ConfigError) as caught:
        load_documents(file) if name == "agent.yaml" else list(checked_tasks(file))
    (problem,) = caught.value.problems
    assert problem.message == "UTF-16 or UTF-32, not UTF-8: save the file as UTF-8"


def test_a_mark_before_the_first_line_is_no_mistake(tmp_path: Path) -> None:
    text = '\ufeff{"question": "one"}\n{"question": "two"}\n'
    for name in ("tasks.jsonl", "tasks.json"):
        tasks = checked_tasks(write(tmp_path, text, name))
        assert [each.task.question for each in tasks] == ["one", "two"]


def test_problems_have_paths_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "below").mkdir()
    file = write(tmp_path / "below", '{"question": 5}')
    for folder, shown in ((tmp_path, "below/task.json"), (tmp_path / "below", "task.json")):
        monkeypatch.chdir(folder)
        with pytest.raises(ConfigError, match=rf"^{shown}:1: "):
            load_tasks(file)
    (tmp_path / "beside").mkdir()
    monkeypatch.chdir(tmp_path / "beside")
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(file))}:1: "):
        load_tasks(file)
