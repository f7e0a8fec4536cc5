"""The documents are true: their examples run, and their tables match the code."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import agentpipe
from agentpipe.cli import exit_codes
from agentpipe.cli.commands import COMMANDS, module_of
from agentpipe.config.collection import Collection
from agentpipe.config.schema import AgentFileSpec, CollectionSpec, ContextEntry
from agentpipe.connections.environment import URL_VARIABLES
from agentpipe.core.process_privacy import DUMPABLE
from agentpipe.core.result import OUTCOMES, Result
from agentpipe.core.run_plan import seed_of
from agentpipe.core.task import Task
from agentpipe.evaluation import checks
from agentpipe.evaluation.chain import OPS, STEPS
from agentpipe.operations.judging.report import summarize
from agentpipe.operations.stats import as_dict
from agentpipe.settings import _VARIABLES, Settings
from agentpipe.worker.watch.handover import VARIABLE as HANDOVER
from tests.documents import (
    DOCUMENTS,
    ROOT,
    RUN,
    blocks,
    fences,
    file_of,
    prose,
    read,
    section,
    tables,
)
from tests.llm_stub import LlmStub, call, say
from tests.unit.test_packages import PACKAGES, WORKER

if TYPE_CHECKING:
    from tests.llm_stub import Reply, Request

BIN = Path(sys.executable).parent
TIMEOUT_S = 180
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")
_PATH = re.compile(r"`((?:agentpipe|tests|docs|configs|actors|brokers)/[\w/.-]*\w\.\w+)`")
_LINK = re.compile(r"\]\(([^)#]*)(?:#([^)]*))?\)")
_HERE = "END_OF_THE_BLOCK"


def run(folder: Path, *command: str, **environ: str) -> str:
    """Run a command that must succeed; return its output, and leave no process behind."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AGENT")}
    path = f"{BIN}:{os.environ['PATH']}"
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**clean, "PATH": path, "COLUMNS": "80", **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        printed, _ = process.communicate(timeout=TIMEOUT_S)
        pytest.fail(f"not within {TIMEOUT_S} s:\n{printed}")
    assert process.returncode == 0, printed
    return printed


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A folder with the files of a clone that its users need."""
    for name in ("configs", "actors"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def run_document(document: str, folder: Path, **environ: str) -> str:
    """Run a document's blocks in order, in one shell."""
    script = "trap 'echo \"it was: $BASH_COMMAND\"' ERR\n" + "\n".join(steps(document))
    return run(folder, "bash", "-euo", "pipefail", "-c", script, **environ)


def assert_printed(block: str, printed: str) -> None:
    """Fail if a shown line was not printed; numbers can differ."""
    lines = {shape(line) for line in printed.splitlines()}
    shown = [line for line in block.splitlines() if line.strip("., ") and line[:2] != "$ "]
    assert [line for line in shown if shape(line) not in lines] == [], printed


def shape(line: str) -> str:
    """A line without the parts that differ between runs."""
    return re.sub(r"\d[\d.,]*", "N", line).rstrip()


def steps(document: str) -> list[str]:
    """A document's commands; a block that is a file becomes a command that writes it."""
    found, names = [], set()
    for language, text in fences(document):
        if language == RUN:
            found.append(text)
        elif name := file_of(text):
            assert name not in names, f"{document} has {name} twice"
            names.add(name)
            found.append(f"cat > {name} <<'{_HERE}'\n{text}{_HERE}")
    return found


@pytest.mark.long
def test_the_readme_prints_what_it_shows(scratch: Path) -> None:
    [block] = [text for text in blocks("README.md", "console") if "$ agentpipe send" in text]
    run(scratch, "agentpipe", "init", "trial")
    typed = [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]
    assert [line.split()[1] for line in typed] == ["send", "work", "tail", "status"]
    printed = run(scratch / "trial", "bash", "-euo", "pipefail", "-c", "\n".join(typed))
    assert_printed(block, printed)


def test_readme_and_guide_show_what_init_writes(scratch: Path) -> None:
    run(scratch, "agentpipe", "init", "trial")
    shown = {*blocks("README.md", "python"), *blocks("docs/guide.md", "yaml")}
    for name in ("agent.py", "agent.yaml", "collection.yaml"):
        assert (scratch / "trial" / name).read_text() in shown, name


@pytest.mark.long
def test_the_guide_runs(scratch: Path) -> None:
    printed = run_document("docs/guide.md", scratch)
    for expected in (
        "6 files in trial",
        "3 accepted, 0 duplicates, 0 refused",
        "ok add-3 adder",
        "0 accepted, 3 duplicates, 0 refused",
        "GOOD MORNING! From the north",
        "infra_error call-3 shout_0  InfraError: the line is down",
        "accepted 6  waiting 0  delayed 0  running 0  outbox 0  delivered 6",
        "1 replayed, 0 refused",
        "1 task answered `cancelled`",
        "50 0 0",  # Printed by pipeline.py.
    ):
        assert expected in printed, printed
    assert "north-4711" not in printed
    stores = list(scratch.glob("trial/.agentpipe/*.db"))
    assert len(stores) == 2
    assert all(b"north-4711" not in path.read_bytes() for path in stores)


@pytest.mark.long
def test_the_tutorial_runs_and_prints_what_it_shows(scratch: Path) -> None:
    with LlmStub(clock_reader) as stub:
        printed = run_document(
            "docs/tutorial.md", scratch, OPENAI_API_KEY="sk-4711-0815", OPENAI_BASE_URL=stub.url
        )
    assert printed.count("8 accepted, 0 duplicates, 0 refused") == 2
    for block in blocks("docs/tutorial.md", "console")[1:]:
        assert_printed(block, printed)
    assert printed.count("[1.0, 1.0, 1.0, 0.0] [0.25, 0.25, 0.25, -0.75]") == 2
    assert {request.seed for request in stub.requests if request.seed} == set(map(seed_of, SAMPLES))
    assert {request.authorization for request in stub.requests} == {"Bearer sk-4711-0815"}
    # The first result in the stream can be any sample.
    assert re.search("(True|False) 2 requests", printed)
    assert "convert_time" in printed


SAMPLES = [
    f"{run}/{name}/{i}" for run in ("warm", "cold") for name in ("tokyo", "dubai") for i in range(4)
]
WRONG = set(map(seed_of, ("warm/tokyo/3", "warm/dubai/3")))


def clock_reader(request: Request) -> Reply:
    """Call the tool, then answer with its result; the last warm sample of each answers wrongly."""
    times = re.findall(r"T(\d\d:\d\d)", request.text)
    if not times:
        zone = "Asia/Tokyo" if "Tokyo" in request.text else "Asia/Dubai"
        lima = {"source_timezone": "America/Lima", "time": "09:00", "target_timezone": zone}
        return call("time__convert_time", **lima)
    return say(json.dumps({"time": "00:00" if request.seed in WRONG else times[-1]}))


# Documents with their own tests.
WATCHED = ("README.md", "docs/guide.md", "docs/tutorial.md")


@pytest.mark.long
@pytest.mark.parametrize(
    "document", [each for each in DOCUMENTS if each not in WATCHED and blocks(each, RUN)]
)
def test_the_commands_of_a_document_run(document: str, scratch: Path) -> None:
    run_document(document, scratch)


@pytest.mark.long
def test_make_run_prints_what_the_guide_shows(scratch: Path) -> None:
    [block] = [text for text in blocks("docs/guide.md", "console") if "$ make run\n" in text]
    dry = run(scratch, "make", "--dry-run", "run", "PYTHON=python3")
    environment, made = block.splitlines()[1:3], "\n".join(block.splitlines()[3:])
    assert [line for line in environment if line not in dry] == []
    # Use this environment instead of creating one.
    printed = run(scratch, "make", "--old-file=.venv/installed", "run", f"BIN={BIN}")
    assert_printed(made, printed.replace(str(BIN), ".venv/bin"))
    assert "mean reward     0.893 of 200 evaluated" in printed


def commands() -> list[tuple[str, list[str]]]:
    """Each command with the options in its help, including its actions' options."""
    found = []
    for name in COMMANDS:
        parser = argparse.ArgumentParser()
        import_module(f"agentpipe.cli.{module_of(name)}").add(parser)
        helps = [parser.format_help()]
        for action in parser._actions:  # noqa: SLF001 - argparse has no public way
            if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
                helps += [each.format_help() for each in action.choices.values()]
        found.append((name, sorted(set(_OPTION.findall(" ".join(helps))))))
    return found


@pytest.mark.parametrize(("name", "options"), commands())
def test_a_command_is_documented_with_each_option(name: str, options: list[str]) -> None:
    own = prose(section("docs/reference.md", f"`agentpipe {name}"))
    common = section("docs/reference.md", "Commands").partition("### `")[0]
    assert "--json" in options
    assert [option for option in options if f"`{option}" not in own + common] == []
    invented = set(_OPTION.findall(" ".join(re.findall(r"`[^`]*`", own)))) - set(options)
    assert not invented
    assert f"| `{name}" in common


def test_what_the_commands_print_is_documented() -> None:
    from agentpipe.brokers.statistics import QueueDepth, Stats, WorkerSeen

    depth = QueueDepth("q", "c", 0, 0, 0, 1, 1)
    stats = Stats(0, 0, 0, 0, 0, 0, 0, 0, {}, (depth,), (WorkerSeen("w", "h", 1, 1, 0, 0.0),))
    status = as_dict(stats)
    words = [*status, *status["agents"][0], *status["workers"][0]]
    text = section("docs/reference.md", "`agentpipe status`")
    assert [word for word in words if not re.search(rf"\b{word}\b", text)] == []
    text = section("docs/reference.md", "`agentpipe report`")
    whole, _ = summarize([Result(reward=1.0, task_id="t")], pass_k=[1])
    said = whole.to_dict()
    words = [*said, *said["reward"], *said["pass_k"][0]]
    assert [word for word in words if f'"{word}"' not in text] == []


def test_reasons_and_what_why_prints_are_documented() -> None:
    from typing import get_args

    from agentpipe.brokers.location import TaskLocation
    from agentpipe.operations.explain import Reason, State, explain
    from agentpipe.settings import OutboxLimits

    reasons, keys = tables(section("docs/reference.md", "`agentpipe why"))
    assert set(reasons) == set(get_args(Reason))
    states = {state for row in reasons.values() for state in re.findall(r"`(\w+)`", row[1])}
    assert states == set(get_args(State))
    printed = explain(TaskLocation("t", "unknown"), 0.0, OutboxLimits(1, 1)).to_dict()
    documented = {word for row in keys.values() for word in re.findall(r"`(\w+)`", row[0])}
    assert documented == set(printed)


def test_exit_codes_are_documented() -> None:
    codes = [value for name, value in vars(exit_codes).items() if name.isupper() and name[0] != "_"]
    assert len(codes) == 7
    text = section("docs/reference.md", "Commands")
    assert [code for code in codes if not re.search(rf"^\| {code} \|", text, re.MULTILINE)] == []


@pytest.mark.parametrize(
    ("heading", "number", "names"),
    [
        ("Collection", 0, set(CollectionSpec().fields)),
        ("Collection", 1, set(ContextEntry().fields)),
        ("Agent config", 0, set(AgentFileSpec().fields)),
        ("Task", 0, {each.name for each in fields(Task)}),
        ("Evaluators", 0, set(checks.KEYS)),
        ("Evaluators", 1, set(STEPS)),
        ("Result", 0, {each.name for each in fields(Result)}),
        ("Settings", 0, {*_VARIABLES, *URL_VARIABLES.values(), DUMPABLE, HANDOVER}),
    ],
)
def test_a_table_lists_every_name(heading: str, number: int, names: set[str]) -> None:
    table = tables(section("docs/reference.md", heading))[number]
    assert {name.partition("(")[0] for name in table} == names


def test_documented_defaults_are_those_of_the_code() -> None:
    defaults: dict[str, Any] = {each.name: each.default for each in fields(Collection)}
    for name, (_, shown, *_) in tables(section("docs/reference.md", "Collection"))[0].items():
        default = defaults.get(name, defaults.get(f"{name}_s"))
        if isinstance(default, bool):
            assert shown == str(default).lower(), name
        elif isinstance(default, (int, float)):
            assert number_of(shown) == default, name
    settings = Settings()
    for variable, (_, shown, *_) in tables(section("docs/reference.md", "Settings"))[0].items():
        if re.match(r"\d", shown):
            name = _VARIABLES[variable][0]
            assert number_of(shown) == getattr(settings, name), variable


def number_of(cell: str) -> float:
    return float(cell.split(maxsplit=1)[0].replace(",", ""))


def test_outcomes_are_documented() -> None:
    assert list(tables(section("README.md", "Outcomes"))[0]) == list(OUTCOMES)
    row = tables(section("docs/reference.md", "Result"))[0]["outcome"]
    assert re.findall(r"`(\w+)`", row[2]) == list(OUTCOMES)


def test_operators_are_documented() -> None:
    row = tables(section("docs/reference.md", "Evaluators"))[0]["op"]
    assert re.findall(r"`([^`]+)`", row[1]) == list(OPS)


def test_public_names_are_documented() -> None:
    text = section("docs/reference.md", "Python")
    assert [name for name in agentpipe.__all__ if not re.search(rf"\b{name}\b", text)] == []


def test_the_design_lists_the_packages_in_their_order() -> None:
    [table] = tables(section("docs/design.md", "3. Packages"))
    assert tuple(name for name in table if "." not in name) == PACKAGES
    parts = [name.removeprefix("worker.") for name in table if "." in name]
    assert parts == [part for part in WORKER if part in parts]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_and_links_lead_somewhere(document: str) -> None:
    text = read(document)
    assert [path for path in _PATH.findall(text) if not (ROOT / path).exists()] == []
    folder = (ROOT / document).parent
    for target, anchor in _LINK.findall(text):
        if "://" not in target:
            place = folder / target if target else ROOT / document
            assert place.exists(), target
            assert not anchor or anchor in anchors(place.read_text()), (target, anchor)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub derives from headings."""
    words = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in _HEADING.findall(text)]
    return {word.replace(" ", "-") for word in words}
