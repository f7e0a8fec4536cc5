"""Values that no store accepts and times that no clock reaches are refused by name."""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from agentpipe.cli import main
from agentpipe.errors import ConfigError, Unreachable
from agentpipe.settings import MAX_SECONDS, MAX_SLOTS, Settings
from agentpipe.sinks import open_sink
from agentpipe.worker.fleet.supervisor import Supervisor

if TYPE_CHECKING:
    from pathlib import Path

AGENT = """
kind: agent
spec: {name: adder, type: command, config: {command: ["true"]}}
"""
COLLECTION = """
kind: collection
spec: {name: adder, config: agent.yaml}
"""
BYTES = os.fsdecode(b"\xff")
HUGE = "99999999999999999999999"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agent.yaml").write_text(AGENT)
    (tmp_path / "collection.yaml").write_text(COLLECTION)
    (tmp_path / "tasks.jsonl").write_text('{"question": "q"}\n')
    (tmp_path / "folder").mkdir()
    assert main(["send", "adder", "q"]) == 0


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    try:
        code = main(list(arguments))
    except SystemExit as ended:
        code = int(ended.code or 0)
    said = capsys.readouterr().err
    assert (code, "Traceback" in said) == (2, False), said
    return said


@pytest.mark.parametrize(
    "arguments",
    [
        ("tail", "--timeout", "0", "--group", BYTES),
        ("cancel", BYTES),
        ("dead", "show", BYTES),
        ("send", "adder", "q", "--broker", f"sqlite:///{BYTES}"),
        ("tail", "--timeout", "0", "--sink", f"sqlite:///{BYTES}"),
        ("send", "adder", "q", "--metadata", f"a={BYTES}"),
        ("metrics", "--host", BYTES),
    ],
)
def test_an_argument_that_is_not_utf_8_is_named(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "udcff' is not UTF-8: only paths may have other bytes" in refused(capsys, *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ("dead", "list", "--limit", HUGE),
        ("chaos", f"--tasks={HUGE}"),
        ("send", "adder", "--file", "tasks.jsonl", "--group", "2", "--repairs", HUGE),
    ],
)
def test_a_number_that_no_store_can_take_is_named(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"{HUGE} is too large: numbers go up to 2^63 - 1" in refused(capsys, *arguments)


def test_a_limit_beyond_any_file_takes_the_whole_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["send", "adder", "--file", "tasks.jsonl", "--limit", HUGE]) == 0
    assert capsys.readouterr().out.endswith("1 accepted, 0 duplicates, 0 refused\n")


@pytest.mark.parametrize("option", ["--older-than", "--newer-than"])
def test_an_age_from_before_all_time_stamps_is_the_first_of_them(option: str) -> None:
    assert main(["dead", "list", option, "999999999999w"]) == 0


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "x"])
@pytest.mark.parametrize(
    "command",
    [
        ("tail", "--timeout"),
        ("send", "adder", "--file", "tasks.jsonl", "--wait", "--timeout"),
        ("consume-outputs", "--timeout"),
        ("drain", "--all", "--wait", "--timeout"),
        ("policy", "pause", "p", "--drain-s"),
        ("probe", "live", "--file", "agent.yaml", "--max-age"),
        ("collect", "--to", "archive.db", "--timeout"),
    ],
)
def test_a_time_that_no_clock_reaches_is_refused(
    command: tuple[str, ...], value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"expected seconds from 0, got '{value}'" in refused(capsys, *command, value)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("send", "adder", "q", "--timeout", "1"), "add --wait"),
        (("tail", "--timeout", "0", "--commit-every", "5"), "--commit-every needs --group NAME"),
        (
            ("tail", "--timeout", "0", "--group", "g", "--commit-every", "0"),
            "--commit-every must be at least 1",
        ),
    ],
)
def test_an_option_without_effect_is_refused(
    arguments: tuple[str, ...], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert what in refused(capsys, *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ("status", "--broker"),
        ("send", "adder", "q", "--broker"),
        ("tail", "--timeout", "0", "--sink"),
        ("report", "--sink"),
    ],
)
def test_a_file_that_is_no_database_is_a_mistake(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, *arguments, "sqlite:///agent.yaml")
    assert "agent.yaml is not an SQLite database: name another file" in said


@pytest.mark.parametrize(
    "arguments",
    [("status",), ("send", "adder", "q"), ("tail", "--timeout", "0"), ("report",)],
)
def test_a_file_of_a_newer_version_is_a_mistake(
    arguments: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An outage would be waited for, and a supervisor would try again; no waiting mends this."""
    open_sink(Settings.from_env({})).close()
    for path in tmp_path.glob(".agentpipe/*.db"):
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA user_version = 99")
    said = refused(capsys, *arguments)
    assert "has layout 99, this agentpipe knows" in said
    assert "use the version that wrote it, or another file" in said


@pytest.mark.parametrize(
    "arguments", [("check",), ("check", "."), ("init", "new", "--from-mcp-universe")]
)
@pytest.mark.parametrize("path", ["x" * 10_000, "y/" * 5_000])
def test_a_path_that_no_system_has_is_refused(
    arguments: tuple[str, ...], path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"{path[:80]}...: the path is longer than the system allows" in refused(
        capsys, *arguments, path
    )


@pytest.mark.parametrize("value", ["65536", "-1", "x"])
@pytest.mark.parametrize("command", ["metrics", "serve-env", "web"])
def test_what_is_no_port_is_refused(
    command: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, command, "--port", value)
    assert f"expected a number from 0 to 65535, got '{value}'" in said


def test_a_bound_that_nothing_is_below_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "export", "--to", "sft", "-", "--min-reward", "nan")
    assert "expected a number, got 'nan'" in said
    said = refused(capsys, "tail", "--timeout", "0", "--from", "nan")
    assert "expected beginning, now, Unix seconds" in said


def test_a_folder_has_no_task_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "folder: a folder, not a file: " in refused(capsys, "try", "adder", "--task=folder:1")


def test_a_file_of_tasks_that_does_not_exist_is_named_with_what_to_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = refused(capsys, "send", "adder", "--file", "none.jsonl")
    assert said == "none.jsonl: no such file: check the path\n"


def test_a_misspelt_value_is_named_by_its_option(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "send", "adder", "q", "--on-full", "waits")
    assert said.startswith("unknown --on-full 'waits': did you mean 'wait'?\n")
    said = refused(capsys, "runs", "shw", "v1")
    assert said.startswith("unknown action 'shw': did you mean 'show'?\n")


@pytest.mark.parametrize(
    ("option", "most"), [("--processes", "1,000"), ("--slots", f"{MAX_SLOTS:,}")]
)
def test_more_than_a_machine_can_run_is_refused(
    option: str, most: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"{option} may be at most {most}, got 1,000,000" in refused(
        capsys, "work", option, "1000000"
    )


@pytest.mark.parametrize(
    ("name", "value", "most"),
    [
        ("AGENTPIPE_SLOTS", "100001", "100,000"),
        ("AGENTPIPE_LEASE_S", "1e300", f"{MAX_SECONDS:,}"),
        ("AGENTPIPE_RETENTION_S", "1e10", f"{MAX_SECONDS:,}"),
        ("AGENTPIPE_MAX_QUEUE_SIZE", HUGE, f"{2**53:,}"),
    ],
)
def test_a_variable_has_an_upper_bound(name: str, value: str, most: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: expected .*, at most {most}; got '{value}'"):
        Settings.from_env({name: value})


def test_a_broker_that_is_away_is_not_said_with_each_look(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A burst checks several times per second."""
    reasons = ["away", "away", "away", "full", "full", "away"]
    left = list(reversed(reasons))

    def is_done() -> bool:
        raise Unreachable(left.pop())

    supervisor = Supervisor(Settings(), {}, 1, is_done)
    with caplog.at_level(logging.WARNING):
        assert not any(supervisor._done() for _ in reasons)  # noqa: SLF001 - a burst's check
    said = [record.getMessage().rpartition(" ")[2] for record in caplog.records]
    assert said == ["away", "full", "away"]


def test_a_signal_ends_a_supervisor_that_still_starts_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = []

    class Child:
        code, owes_verdict = 0, False

        def __init__(self, *_: object) -> None:
            started.append(self)
            os.kill(os.getpid(), 15)

        def check(self) -> None:
            assert self in started

        def end_unserved(self) -> None:
            assert self in started

    monkeypatch.setattr("agentpipe.worker.fleet.supervisor.ChildProcess", Child)
    assert (Supervisor(Settings(), {}, 500, None).run(), len(started)) == (0, 1)
