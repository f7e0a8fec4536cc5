"""A third party's store: a separate package, chosen by its URL, tested like ours."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.project import Project

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CORE_TESTS = 80
CAPABILITIES = (
    "ReadsTasks",
    "CancelsTasks",
    "PausesQueues",
    "DrainsWorkers",
    "BreaksOnFailures",
    "ComparesClaims",
    "CountsGroups",
    "KeepsBudgets",
    "KeepsLoops",
    "KeepsPolicies",
    "KeepsDeadLetters",
    "LocatesTasks",
    "MovesTasks",
    "NotesDrains",
    "KeepsRuns",
    "KeepsSchedules",
    "KeepsUndeliverable",
    "ReturnsResults",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the package ``toystore`` is installed, offline."""
    folder = tmp_path_factory.mktemp("third-party")
    source = shutil.copytree(HERE / "third_party", folder / "source")
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", *options, "-t", folder / "site", source],
        check=True,
        timeout=240,
    )
    return folder / "site"


@pytest.mark.long
def test_a_third_partys_store_passes_the_conformance_suite_of_the_core(site: Path) -> None:
    suite = sorted((ROOT / "tests" / "conformance").glob("test_store_*.py"))
    options = ["--store-url", "toy:///{folder}/toy.json", "-p", "no:cacheprovider", "-x", "-rs"]
    lacking = [
        "signals",
        "keeps_tallies",
        "shares_cooldowns",
        "spares_neighbours",
        "follows_sources",
        "scales",
    ]
    lacks = [word for trait in lacking for word in ("--lacks", trait)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *lacks, *suite],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert int(re.findall(r"^(\d+) passed", done.stdout, re.MULTILINE)[0]) >= CORE_TESTS, (
        done.stdout
    )
    reasons = set(re.findall(r"^SKIPPED .*: (?:outside: )?not (\w+)$", done.stdout, re.MULTILINE))
    assert reasons == {*lacking, *CAPABILITIES}, "all else is tested"


@pytest.mark.long
def test_workers_and_senders_find_it_by_its_url(site: Path, project: Project) -> None:
    project.environ["PYTHONPATH"] = str(site)
    project.environ["AGENTPIPE_BROKER"] = "toy:///toy.json"
    project.collection(number=4)
    sent = project.ok("send", "toys", "--file", project.tasks("one", "two", "three"), "--json")
    ids = sent.json["task_ids"]
    done = project.burst("--processes", "1")
    assert done.err.count("this broker counts no failures") == 1  # Not once per agent.
    assert sorted(project.by_id()) == sorted(ids)
    assert project.ok("status", "--json").json["delivered"] == 3


# Features that the core lacks.

CANNOT = {
    ("cancel", "t"): "cancel tasks",
    ("cancel", "--collection", "toys"): "cancel tasks",
    ("purge",): "purge tasks",
    ("clean-tasks",): "purge tasks",
    ("pause", "toys"): "pause agents",
    ("drain", "--all"): "drain workers",
    ("resume", "toys_0"): "pause agents",
    ("dead", "list"): "keep dead letters",
    ("dead", "show", "t"): "keep dead letters",
    ("dead", "replay", "--all", "--yes"): "keep dead letters",
    ("dead", "drop", "t"): "keep dead letters",
    ("why", "t"): "locate tasks",
    ("schedule", "run", "--once"): "keep schedules",
}
CANNOT_IN_SHORT = {("cancel", "t"), ("dead", "list"), ("pause", "toys")}
KEYS = """
import os
from agentpipe.errors import ConfigError
from agentpipe.settings import Settings
from agentpipe.tui.store_actions import StoreActions

actions = StoreActions(Settings.from_env(os.environ))
for call in (actions.pause, actions.resume, actions.cancel, actions.replay):
    try:
        call(["toys"])
    except ConfigError as error:
        print(error)
try:
    actions.dead()
except ConfigError as error:
    print(error)
"""


@pytest.fixture
def core_only(site: Path, project: Project) -> Project:
    """A project whose broker has only the core, no capabilities."""
    project.environ["PYTHONPATH"] = str(site)
    project.environ["AGENTPIPE_BROKER"] = "toy:///toy.json"
    project.collection(number=2)
    return project


@pytest.mark.parametrize(
    ("command", "action"),
    [
        pytest.param(
            *case, id=" ".join(case[0]), marks=[pytest.mark.long] * (case[0] not in CANNOT_IN_SHORT)
        )
        for case in CANNOT.items()
    ],
)
def test_a_command_says_what_a_broker_without_its_capability_cannot_do(
    core_only: Project, command: tuple[str, ...], action: str
) -> None:
    done = core_only.run(*command)
    assert (done.code, done.out) == (2, ""), done
    assert done.err.splitlines()[-1] == f"this broker cannot {action}", done


def test_keys_of_top_say_what_such_a_broker_cannot_do(core_only: Project) -> None:
    said = core_only.ok("-c", KEYS).out.splitlines()
    pauses, letters = "this broker cannot pause agents", "this broker cannot keep dead letters"
    assert said == [pauses, pauses, "this broker cannot cancel tasks", letters, letters]


def test_status_top_and_doctor_do_with_the_core(core_only: Project) -> None:
    core_only.ok("send", "toys", "one")
    assert core_only.ok("status", "--json").json["waiting"] == 1
    assert core_only.ok("top", "--once").out
    assert core_only.run("doctor").code in (0, 1)


def test_its_scheme_is_known_like_any_of_ours(site: Path, project: Project) -> None:
    project.collection()
    known = {"PYTHONPATH": str(site)}
    done = project.run("status", "--broker", "tey:///toy.json", env=known)
    assert (done.code, "did you mean 'toy'?" in done.err) == (2, True), done
    done = project.run("status", "--broker", "toy:///toy.json")
    assert (done.code, "no broker 'toy' is installed" in done.err) == (2, True), done
