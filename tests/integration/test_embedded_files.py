"""The embedded store is in the current folder: commands elsewhere say so, and create none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentpipe.connections.sqlite_address import is_absent

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.project import Project

NOTHING_SET = {"AGENTPIPE_BROKER": "", "AGENTPIPE_SINK": "", "AGENT_COLLECTION_CONFIG_FILE": ""}
READERS = [
    ("status",),
    ("report",),
    ("compare", "v1", "v2"),
    ("retry", "--run", "v1"),
    ("rescore", "--run", "v1", "--evaluators", "x.json"),
    ("export", "--to", "jsonl", "-"),
    ("top", "--once"),
    ("tail", "--from", "beginning", "--timeout", "0"),
    ("why", "x"),
    ("show", "x"),
    ("dead", "list"),
    ("cancel", "x"),
    ("purge",),
    ("pause", "x"),
    ("resume", "x"),
    ("drain", "--all"),
    ("policy", "show", "x"),
    ("runs",),
    ("rebalance", "x"),
    ("archive", "info"),
    ("metrics", "--port", "0"),
    ("web", "--port", "0"),
    ("probe", "ready"),
    ("collect", "--to", "x.db"),
]


@pytest.fixture
def empty(project: Project) -> Path:
    folder = project.folder / "empty"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("command", READERS, ids=lambda command: command[0])
def test_a_command_that_reads_creates_no_store(
    project: Project, empty: Path, command: tuple[str, ...]
) -> None:
    done = project.run(*command, folder=empty, env=NOTHING_SET)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("there is no .agentpipe/")
    assert done.err.count("\n") == 1
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize("command", READERS, ids=lambda command: command[0])
def test_a_command_that_reads_creates_no_store_of_a_misspelt_url(
    project: Project, empty: Path, command: tuple[str, ...]
) -> None:
    urls = {"AGENTPIPE_BROKER": "sqlite:///brokr.db", "AGENTPIPE_SINK": "sqlite:///reslts.db"}
    done = project.run(*command, folder=empty, env=NOTHING_SET | urls)
    assert (done.code, done.out) == (1, "")
    name, role = ("brokr.db", "broker") if "brokr" in done.err else ("reslts.db", "sink")
    remedy = f"or correct --{role} or AGENTPIPE_{role.upper()}"
    assert done.err == f"there is no file {empty / name}: what sends or works makes it; {remedy}\n"
    assert list(empty.iterdir()) == []


def test_a_misspelt_sink_is_refused_though_the_broker_exists(project: Project) -> None:
    project.collection()
    project.send("1 and 2")
    typo = project.folder / "typo.db"
    for command in (("tail", "--timeout", "0"), ("report",), ("show", "tasks-0")):
        done = project.run(*command, "--sink", f"sqlite:///{typo}")
        assert (done.code, done.out) == (1, "")
        assert done.err.startswith(f"there is no file {typo}: ")
    assert not typo.exists()
    done = project.run("tail", "--timeout", "0")  # Its first result is on its way.
    assert (done.code, done.out) == (0, "")
    assert "yet; waiting for the first result" in done.err
    assert is_absent(project.environ["AGENTPIPE_SINK"])


def test_tail_waits_for_the_first_result_and_prints_it(project: Project) -> None:
    project.collection()
    project.send("echo early")
    kinds: tuple[tuple[str, ...], ...] = ((), ("--group", "g"), ("--from", "beginning"))
    tails = [project.start("tail", "--limit", "1", *options) for options in kinds]
    for tail in tails:
        assert tail.stderr is not None
        assert "waiting for the first result" in tail.stderr.readline()
    assert is_absent(project.environ["AGENTPIPE_SINK"])
    project.burst("--processes", "1")
    for tail in tails:
        out, _ = tail.communicate(timeout=60)
        assert (tail.returncode, out.count("\n"), "early" in out) == (0, 1, True)


def test_before_the_first_result_a_run_has_none_and_nothing_creates_its_file(
    project: Project,
) -> None:
    project.collection()
    project.ok("send", "toys", "1 and 2", "--run", "v1")
    for command in ("report --run v1", "compare v1 v1-b", "retry --run v1"):
        done = project.run(*command.split())
        assert (done.code, done.err) == (
            1,
            "the run 'v1' has no results here: wait for its tasks\n",
        )
    for command in ("export --to jsonl -", "archive info"):
        done = project.run(*command.split())
        assert (done.code, done.err.partition("results.db")[2][:5]) == (1, " yet:")
    assert project.run("report", "--run", "v2").code == 2  # Its name is misspelt.
    assert project.run("why", "unknown").code == 1
    assert "not an archive" not in project.ok("runs").err
    assert is_absent(project.environ["AGENTPIPE_SINK"])


def test_what_examines_creates_no_store_of_a_misspelt_url(project: Project, empty: Path) -> None:
    urls = {"AGENTPIPE_BROKER": "sqlite:///brokr.db", "AGENTPIPE_SINK": "sqlite:///reslts.db"}
    done = project.run("doctor", folder=empty, env=NOTHING_SET | urls)
    assert (done.code, done.out.count("there is none here yet")) == (0, 2)
    project.run("check", folder=empty, env=NOTHING_SET | urls)
    assert list(empty.iterdir()) == []


def test_what_examines_creates_no_store(project: Project, empty: Path) -> None:
    done = project.run("doctor", folder=empty, env=NOTHING_SET)
    assert done.code == 0
    assert done.out.count("there is none here yet") == 2
    assert project.run("check", folder=empty, env=NOTHING_SET).code == 2
    assert list(empty.iterdir()) == []


@pytest.mark.long
def test_the_nearest_store_is_named(project: Project, empty: Path) -> None:
    project.ok("init", "trial", folder=empty)
    trial = empty / "trial"
    project.ok("send", "adder", "1 and 2", folder=trial, env=NOTHING_SET)
    (trial / "below").mkdir()
    from_below = project.run("status", folder=trial / "below", env=NOTHING_SET)
    file = str(trial / "collection.yaml")
    beside = project.run("status", "-c", file, folder=empty, env=NOTHING_SET)
    for done in (from_below, beside):
        assert done.code == 1
        assert f"the nearest one is in {trial}: run the command there, or add --broker" in done.err
    burst = ("work", "--burst", "--processes", "1", "-c", file)
    worked = project.run(*burst, folder=empty, env=NOTHING_SET)
    assert worked.code == 0
    assert f"{trial}/.agentpipe/broker.db has 1 task waiting" in worked.err


def test_a_collection_file_that_is_absent_is_a_mistake_for_every_command(project: Project) -> None:
    for command in (("status",), ("tail", "--timeout", "0"), ("report",)):
        done = project.run(*command, "-c", "absent.yaml")
        assert (done.code, done.err) == (2, "absent.yaml: no such file: check the path\n")
