"""YAML files become data with line numbers; bad files are refused by file and line."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from agentpipe.config.yaml_source import MAX_BYTES, MAX_DEPTH, MAX_NODES, label, load_documents
from agentpipe.errors import ConfigError, Problem

if TYPE_CHECKING:
    from pathlib import Path

CANARY = "hunter2canary"


def write(folder: Path, content: str | bytes) -> Path:
    file = folder / "some.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def refused(file: Path) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        load_documents(file)
    assert all(problem.file == str(file) for problem in caught.value.problems)
    return caught.value.problems


def test_data_come_with_the_line_of_each_part(tmp_path: Path) -> None:
    text = "# first\nkind: x\nspec:\n  list:\n    - a: 1\n    - b: [2.5, yes, ~]\n"
    (document,) = load_documents(write(tmp_path, text))
    assert document.data == {"kind": "x", "spec": {"list": [{"a": 1}, {"b": [2.5, True, None]}]}}
    assert document.line == 2
    assert document.line_of(("kind",)) == 2
    assert document.line_of(("spec", "list")) == 4
    assert document.line_of(("spec", "list", 1, "b", 0)) == 6


def test_a_path_that_is_not_there_has_the_line_of_what_is_around_it(tmp_path: Path) -> None:
    (document,) = load_documents(write(tmp_path, "\na: 1\nspec:\n  b: 2\n"))
    assert document.line_of(("spec", "c", 3)) == 3
    assert document.line_of(("nothing",)) == 2


def test_documents_are_read_in_order_and_empty_ones_are_skipped(tmp_path: Path) -> None:
    documents = load_documents(write(tmp_path, "---\n---\na: 1\n---\n# empty\n---\nb: 2\n---\n"))
    assert [(document.data, document.line) for document in documents] == [
        ({"a": 1}, 3),
        ({"b": 2}, 7),
    ]


def test_dates_and_a_lone_equals_sign_stay_texts(tmp_path: Path) -> None:
    (document,) = load_documents(write(tmp_path, "a: 2024-02-30\nb: 2024-01-01\nc: =\n"))
    assert document.data == {"a": "2024-02-30", "b": "2024-01-01", "c": "="}


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    (document,) = load_documents(write(tmp_path, b"\xef\xbb\xbfkind: x\n"))
    assert document.data == {"kind": "x"}


def test_merged_keys_stand_behind_a_mappings_own(tmp_path: Path) -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc:\n  <<: [*a, *b]\n  x: 9\n"
    (document,) = load_documents(write(tmp_path, text))
    assert document.data["c"] == {"x": 9, "y": 2, "z": 4}
    assert document.line_of(("c", "x")) == 5
    assert document.line_of(("c", "z")) == 2


def test_aliases_become_copies(tmp_path: Path) -> None:
    (document,) = load_documents(write(tmp_path, "a: &a [1]\nb: *a\n"))
    document.data["a"].append(2)
    assert document.data["b"] == [1]


def test_the_repr_shows_no_data(tmp_path: Path) -> None:
    documents = load_documents(write(tmp_path, f"token: {CANARY}\n"))
    assert CANARY not in repr(documents)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (problem,) = refused(tmp_path / "none.yaml")
    assert problem.message == "no such file: check the path"


def test_a_folder_is_refused(tmp_path: Path) -> None:
    (problem,) = refused(tmp_path)
    assert "folder" in problem.message


def test_an_unreadable_path_is_refused_with_the_reason(tmp_path: Path) -> None:
    (problem,) = refused(write(tmp_path, "a: 1") / "below")
    assert "cannot be read (Not a directory)" in problem.message


def test_a_file_over_the_size_limit_is_refused(tmp_path: Path) -> None:
    (problem,) = refused(write(tmp_path, b"#" * (MAX_BYTES + 1)))
    assert problem.message == "larger than 10 MB: split it"


@pytest.mark.parametrize("text", ["", "\n# words\n", "---\n---\n", "null\n", b"\xef\xbb\xbf"])
def test_a_file_without_a_document_is_refused(tmp_path: Path, text: str | bytes) -> None:
    (problem,) = refused(write(tmp_path, text))
    assert problem.message.startswith("contains no document")
    assert problem.line == 1


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (b"a: 1\nb: \xff\n", 2, "not UTF-8"),
        ("a: 1\nb: \x07\n", 2, "control character"),
        ("a: 1\nb: [1, 2\n", 3, "a `[` or `{` is not closed"),
        ("a: 1\n\tb: 2\n", 2, "indent with spaces"),
        ("a:\n  b: 1\n c: 2\n", 3, "not YAML: not indented like the lines above: align it"),
        ("a: b: c\n", 1, "put quotes around the value, or align the line"),
        ("a: 'x\nb: 1\n", 3, "a quotation mark is not closed"),
        ("a: @x\n", 1, "fix the line, with quotes"),
        ("a: {T: ${T}}\n", 1, "quotes"),
        ('a: "\\UFFFFFFFF"\n', 1, "out of range"),
        ('a: 1\nb: "\\ud800"\n', 2, "surrogate"),
        ('a: 1\n"\\ud800": 1\n', 2, "surrogate"),
        ("a: 1\nb: 2\na: 3\n", 3, "duplicate key 'a', first in line 1"),
        ("a:\n  b: {c: 1,\n    c: 2}\n", 3, "duplicate key 'c', first in line 2"),
        ("a: 1\n3: x\n'3': y\n", 3, "duplicate key '?', first in line 2"),
        ("a: 1\n3.5: x\n", 2, "keys must be strings, got a decimal number"),
        ("a: 1\non: x\n", 2, "keys must be strings, got a boolean"),
        ("a: 1\n~: x\n", 2, "keys must be strings, got nothing"),
        ("a:\n  {{ T }}: x\n", 2, "keys must be strings, got a mapping"),
        ("? [a]\n: x\n", 1, "keys must be strings, got a list"),
        ("a: 1\nb: !!python/object:os.system x\n", 2, "unknown tag"),
        ("a: 1\nb: !!python/object/apply:os.system [x]\n", 2, "unknown tag"),
        ("a: 1\nb: !!set {x}\n", 2, "unknown tag"),
        ("a: 1\nb: !!int x\n", 2, "does not fit its tag"),
        ("a: 1\nb: !!bool x\n", 2, "does not fit its tag"),
        ("a: 1\nb: " + "1" * 101, 2, "too long for a number"),
        ("a: 1\nb: {<<: 3}\n", 2, "<< merges mappings only"),
        ("a: 1\nb: &b [*b]\n", 2, "contains itself"),
        ("a: 1\nb: &b {<<: *b}\n", 2, "contains itself"),
    ],
)
def test_bad_yaml_is_refused_by_line(
    tmp_path: Path, text: str | bytes, line: int, words: str
) -> None:
    (problem,) = refused(write(tmp_path, text))
    assert problem.line == line
    assert words in problem.message


def test_several_problems_are_told_at_once_in_file_order(tmp_path: Path) -> None:
    problems = refused(write(tmp_path, "a: !x 1\n---\n1.5: x\nb: 1\nb: 2\n"))
    assert [problem.line for problem in problems] == [1, 3, 5]


@pytest.mark.parametrize(
    "text",
    [
        f"a: *{CANARY}\n",
        f"a: !{CANARY} x\n",
        f"a: !{CANARY}!x y\n",
        f"a: [{CANARY}\n",
        f"a: %{CANARY}\n",
        f"a: {CANARY}: b\n",
        f'a: "{CANARY}\\q"\n',
        f"a: &{CANARY} 1\nb: &{CANARY} 2\n---\nc: *{CANARY}\n",
        f"{{TOKEN:{CANARY}, TOKEN:{CANARY}}}\n",
        f"a: !!int {CANARY}\n",
        f"? {{{CANARY}}}\n: 1\n",
        f"a: \xff{CANARY}\x07\n",
    ],
)
def test_no_message_quotes_the_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_documents(write(tmp_path, text))
    assert CANARY not in str(caught.value)
    assert caught.value.__context__ is None


def nested(levels: int) -> str:
    return "a: 1\n---\n" + "[" * levels + "]" * levels


def test_nesting_is_allowed_up_to_the_limit(tmp_path: Path) -> None:
    assert len(load_documents(write(tmp_path, nested(MAX_DEPTH)))) == 2


@pytest.mark.parametrize(
    "text",
    [
        nested(MAX_DEPTH + 1),
        nested(100_000),
        "a: 1\n---\n" + "{" * 100_000,
        "a: 1\n---\n" + "- " * 100_000,
        "a: 1\n---\n" + "? " * 100_000,
        "a: 1\n---\n" + "{a: " * 100_000,
    ],
    ids=["one more", "lists", "mappings", "block lists", "keys", "values"],
)
def test_deeper_nesting_is_refused_quickly(tmp_path: Path, text: str) -> None:
    file = write(tmp_path, text)
    start = time.process_time()
    (problem,) = refused(file)
    assert time.process_time() - start < 1
    assert problem == Problem(f"nested deeper than {MAX_DEPTH} levels: flatten it", str(file), 3)


def bomb(pattern: str) -> str:
    lines = ["a: &a {x: 1}"]
    for name, inner in zip("bcdefghij", "abcdefghi", strict=True):
        lines.append(f"{name}: &{name} " + pattern.format(", ".join([f"*{inner}"] * 9)))
    return "\n".join(lines)


@pytest.mark.parametrize("pattern", ["[{}]", "{{<<: [{}]}}"], ids=["values", "merges"])
def test_alias_bombs_are_refused_quickly(tmp_path: Path, pattern: str) -> None:
    file = write(tmp_path, bomb(pattern))
    start = time.process_time()
    (problem,) = refused(file)
    assert time.process_time() - start < 1
    assert f"more than {MAX_NODES:,} keys and values" in problem.message


def test_a_long_chain_of_merges_is_refused(tmp_path: Path) -> None:
    links = [f"a{i}: &a{i} {{<<: *a{i - 1}}}" for i in range(1, 200)]
    (problem,) = refused(write(tmp_path, "\n".join(["a0: &a0 {x: 1}", *links])))
    assert "nested deeper" in problem.message


def test_many_documents_share_one_limit(tmp_path: Path) -> None:
    text = "---\na: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n"
    text += "c: [*b, *b, *b, *b, *b, *b, *b, *b, *b]\n"
    (problem,) = refused(write(tmp_path, text * 110))
    assert "aliases expanded" in problem.message


def test_a_label_hides_keys_that_may_hold_a_value() -> None:
    assert label(("spec", "context", 0, "env", "TOKEN")) == "spec.context[0].env.TOKEN"
    assert label(("spec", f"TOKEN:{CANARY}")) == "spec.?"


def test_a_whole_number_as_a_key_is_the_text_it_is_written_as(tmp_path: Path) -> None:
    (document,) = load_documents(write(tmp_path, "a: {100: x, 0x10: y}\n"))
    assert document.data == {"a": {"100": "x", "0x10": "y"}}
