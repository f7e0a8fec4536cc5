"""A Context never shows its values; references resolve or are all reported."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any, cast

import pytest

from agentpipe.core.context import MAX_FILE_BYTES, Context, resolve
from agentpipe.errors import ConfigError, Problem

if TYPE_CHECKING:
    from pathlib import Path

CANARY = "hunter2canary"


def complaints(env: dict[str, str], environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        resolve(env, environ or {})
    assert CANARY not in str(caught.value)
    return [problem.message for problem in caught.value.problems]


def test_the_repr_shows_names_only() -> None:
    context = Context({"GITHUB_TOKEN": CANARY, "X": CANARY}, {"note": CANARY})
    assert repr(context) == "Context(env=<GITHUB_TOKEN, X>)"
    assert f"{context}" == repr(context)


@pytest.mark.parametrize("copier", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_context_is_not_pickled_or_copied(copier: Any) -> None:
    with pytest.raises(TypeError, match="holds credentials and is not pickled"):
        copier(Context())


def test_nobody_can_change_a_context() -> None:
    given = {"A": "1"}
    context = Context(given)
    given["A"] = "2"
    assert context.env == {"A": "1"}
    with pytest.raises(TypeError):
        cast("dict[str, str]", context.env)["A"] = "3"
    with pytest.raises(AttributeError):
        context.env = {}  # type: ignore[misc]


def test_contexts_with_the_same_values_are_equal() -> None:
    assert Context({"A": "1"}) == Context({"A": "1"})
    assert Context() != Context({"A": "1"})


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("plain", "plain"),
        ("", ""),
        ("${A}", "one"),
        ("x${A}y${B}z${A}", "xoneytwozone"),
        ("$${A}", "${A}"),
        ("$${", "${"),
        ("$A $ $$ {A} }", "$A $ $$ {A} }"),
        ("$$${A}", "$${A}"),
        ("${EMPTY}", ""),
        ("${LOOKS_LIKE_ONE}", "${A}"),
    ],
)
def test_references_are_replaced_once(template: str, expected: str) -> None:
    environ = {"A": "one", "B": "two", "EMPTY": "", "LOOKS_LIKE_ONE": "${A}"}
    assert resolve({"X": template}, environ) == {"X": expected}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("secret", "secret"),
        ("secret\n", "secret"),
        ("secret\r\n", "secret"),
        ("two\nlines\n\n", "two\nlines\n"),
        ("${A}\n", "${A}"),
        ("", ""),
        ("grün\n", "grün"),
    ],
)
def test_a_files_content_loses_one_newline(tmp_path: Path, content: str, expected: str) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content.encode())
    assert resolve({"X": f"<${{file:{file}}}>"}, {}) == {"X": f"<{expected}>"}


def test_everything_missing_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    env = {"A": f"{CANARY}${{NO_A}}${{NO_B}}", "OK": "x", "B": f"${{file:{tmp_path}/none}}"}
    with pytest.raises(ConfigError) as caught:
        resolve(env, {}, file="c.yaml", lines={"A": 4, "OK": 5, "B": 6})
    assert caught.value.problems == (
        Problem("env A: the variable NO_A is not set: set it where the workers start", "c.yaml", 4),
        Problem("env A: the variable NO_B is not set: set it where the workers start", "c.yaml", 4),
        Problem(
            f"env B: the file '{tmp_path}/none' cannot be read (No such file or directory): "
            "check the path and its permissions",
            "c.yaml",
            6,
        ),
    )
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "template", ["${", "${}", "${A", "${A-x}", "${A:-x}", "${1A}", "${file:x}", "${file:}", "${ A}"]
)
def test_a_malformed_reference_is_refused_without_showing_it(template: str) -> None:
    (message,) = complaints({"X": f"{CANARY}{template}{CANARY}"}, {"A": "1"})
    assert message.startswith("env X: a malformed ${: write ${NAME} or ${file:/absolute/path}")


def test_a_folder_as_a_file_is_refused(tmp_path: Path) -> None:
    (message,) = complaints({"X": f"${{file:{tmp_path}}}"})
    assert "cannot be read (Is a directory)" in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (CANARY.encode() + b"\xff", "not UTF-8"),
        (CANARY.encode() + b"\0", "holds a NUL or more than"),
        (b"x" * (MAX_FILE_BYTES + 1), "holds a NUL or more than"),
    ],
    ids=["not UTF-8", "NUL", "too large"],
)
def test_a_file_that_is_no_credential_is_refused(
    tmp_path: Path, content: bytes, words: str
) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    (message,) = complaints({"X": f"${{file:{file}}}"})
    assert words in message


def test_values_that_do_resolve_are_not_shown_beside_those_that_do_not() -> None:
    messages = complaints({"A": "${SET}", "B": "${SET}${UNSET}"}, {"SET": CANARY})
    assert messages == ["env B: the variable UNSET is not set: set it where the workers start"]
