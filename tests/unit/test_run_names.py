"""Names of runs are plain, and task ids contain their run's name."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from agentpipe.cli.options import add_run
from agentpipe.core.run_names import RUN_NAME, is_of_run, is_run_name, prefix_of, run_of
from agentpipe.core.task import Task
from agentpipe.errors import TaskError


@pytest.mark.parametrize("name", ["v2", "2026-11-28", "a.b_c-D", "7", "x" * 64])
def test_a_plain_name_names_a_run(name: str) -> None:
    assert is_run_name(name)
    assert run_of(f"{prefix_of(name)}p007/3") == name


@pytest.mark.parametrize(
    "name", ["", "../x", "a/b", "a b", "-x", ".x", "é", "x" * 65, "a\n", "a\0", "٣", None, 7]
)
def test_another_value_does_not(name: Any) -> None:
    assert not is_run_name(name)
    assert run_of(f"{name}/p007") != name


def test_an_id_without_a_slash_names_no_run() -> None:
    assert run_of("v2") is None


def test_a_task_says_what_a_run_may_be_named() -> None:
    with pytest.raises(TaskError, match=r"run: expected a run's name"):
        Task.load({"question": "?", "run": "../x"})


def test_a_task_is_of_the_run_that_its_id_begins_with() -> None:
    assert is_of_run("v2/7", "v2")
    assert is_of_run("v2/7", None)
    assert not is_of_run("v2", "v2")
    assert not is_of_run("v20/7", "v2")


@pytest.mark.parametrize("name", ["../x", "a b", "", "x" * 200, "\u00e9", "\x1b[2J", "a/b"])
def test_the_command_line_refuses_other_names_with_the_rule(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    add_run(parser)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--run", name])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert RUN_NAME in told
    assert told.isascii()
    assert "\x1b" not in told
    assert "x" * 100 not in told
