"""A program as an agent: task on stdin, answer on stdout, and no process left behind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from agentpipe.config.agent_config import load_agent_config
from agentpipe.core.context import Context
from agentpipe.core.failures import is_infra
from agentpipe.core.task import Task
from agentpipe.engines.base import open_engine
from agentpipe.engines.instance import Instance
from agentpipe.errors import AgentFailed, AnswerError
from tests.support import processes_with, slowness, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.integration.project import Project

CANARY = "canary-4711-/+?"
PATIENCE_S = 30.0
# The first argument, the question, decides what it does.
SCRIPT = """
case "$1" in
env) env | cut -d= -f1 | sort | tr '\\n' ' ' ;;
stdin) cat ;;
deaf) exec 0<&-; echo fine ;;
token) printf %s "$TOKEN" ;;
folder) touch here; mkdir -p deep/er; chmod 0 deep; pwd ;;
json) echo '{"answer": {"n": 1}, "usage": {"requests": 2, "usd": 0.5},'
    echo '"trace": [{"type": "tool"}]}' ;;
deep-trace)
    printf '{"answer": "paid", "trace": [{"deep": '
    yes '[' | head -n 3000; yes ']' | head -n 3000; echo "}]}" ;;
long) head -c 99992 /dev/zero | tr '\\0' x; printf '%s and more' "$TOKEN" ;;
long-error) { printf %s "$TOKEN"; head -c 3992 /dev/zero | tr '\\0' ' '; echo end; } >&2; exit 3 ;;
bad-trace) echo '{"answer": 1, "trace": "none"}' ;;
later) echo "busy, $TOKEN" >&2; exit 75 ;;
once) [ -e "$MARK" ] || { touch "$MARK"; exit 75; }; echo second ;;
fail) echo "cannot, $TOKEN" >&2; exit 3 ;;
config) exit 78 ;;
missing) exec none-such ;;
killed) kill -9 $$ ;;
binary) printf '\\377\\376' ;;
much) head -c 3000 /dev/zero | tr '\\0' x ;;
litter) (sleep 600 &) ; setsid sleep 600 & echo left ;;
hang) setsid sleep 600 & echo $! >&2; sleep 600 ;;
*) echo "$1" ;;
esac
"""


@pytest.fixture
def shell(project: Project) -> Project:
    """A project whose agent is a shell script, in a context with a token."""
    project.write("answer.sh", SCRIPT)
    project.write("command.yaml", _agent())
    mark = str(project.folder / "mark")
    context = [{"env": {"TOKEN": CANARY, "MARK": mark}}]
    limits = {"time_limit": 3 * slowness(), "max_retries": 1}
    project.collection("sh", "./command.yaml", context=context, **limits)
    return project


def _agent(**config: Any) -> str:
    argv = ["sh", "{{ here }}/answer.sh", "{{ question }}"]
    spec = {"name": "sh", "type": "command", "config": {"argv": argv, **config}}
    return yaml.safe_dump({"kind": "agent", "spec": spec})


def _answers(project: Project, *questions: str) -> dict[str, dict[str, Any]]:
    tasks = [{"question": question, "task_id": question} for question in questions]
    project.send(*tasks, to="sh")
    project.burst("--processes", "1")
    return project.by_id()


def test_a_program_answers_with_text_or_json(shell: Project) -> None:
    results = _answers(shell, "hello", "json", "stdin", "deaf", "{{ TOKEN }}; rm -rf $HOME")
    assert {result["outcome"] for result in results.values()} == {"ok"}
    assert results["hello"]["result"] == "hello"
    assert results["deaf"]["result"] == "fine"
    assert json.loads(results["stdin"]["result"])["question"] == "stdin"
    assert results["{{ TOKEN }}; rm -rf $HOME"]["result"] == "{{ TOKEN }}; rm -rf $HOME"
    structured = results["json"]
    assert structured["result"] == {"n": 1}
    assert structured["usage"] == {"requests": 2, "usd": 0.5}
    tool, agent = structured["trace"]
    assert tool["records"][0]["data"] == {"type": "tool"}
    assert tool["parent_id"] == agent["id"]
    assert agent["records"][0]["data"]["response"] == '{"n":1}'


def test_it_knows_its_context_and_a_few_variables_and_works_in_a_folder_of_its_own(
    shell: Project,
) -> None:
    results = _answers(shell, "env", "folder", "token")
    names = set(results["env"]["result"].split())
    assert names - {"LANG", "PWD", "SHLVL", "OLDPWD", "_"} == {
        "AGENTPIPE_RUN",
        "HOME",
        "MARK",
        "PATH",
        "TOKEN",
    }
    folder = Path(results["folder"]["result"])
    assert folder != shell.folder
    assert not folder.exists()
    assert results["token"]["result"] == "***"


@pytest.mark.long
def test_what_a_program_does_wrong_is_told_and_never_scored(shell: Project) -> None:
    results = _answers(shell, "fail", "later", "once", "killed", "binary", "bad-trace", "hang")
    outcomes = {question: result["outcome"] for question, result in results.items()}
    assert outcomes == {
        "fail": "agent_error",
        "later": "infra_error",
        "once": "ok",
        "killed": "agent_error",
        "binary": "ok",
        "bad-trace": "agent_error",
        "hang": "limit",
    }
    assert results["fail"]["error"]["message"] == "sh ended with 3: cannot, ***"
    assert "busy, ***" in results["later"]["error"]["message"]
    assert (results["later"]["attempt"], results["once"]["attempt"]) == (2, 2)
    assert "signal 9" in results["killed"]["error"]["message"]
    assert "\ufffd" in results["binary"]["result"]
    assert "expected a list of objects" in results["bad-trace"]["error"]["message"]
    assert {result["reward"] for result in results.values()} == {None}


def test_an_agent_cannot_show_what_belongs_to_another_context(shell: Project) -> None:
    other = "credential-of-another-context-0815"
    shell.collection(
        "both",
        "./command.yaml",
        number=2,
        context=[{"env": {"TOKEN": CANARY}}, {"env": {"TOKEN": other}}],
    )
    questions = [f"{number} {secret}" for number in range(4) for secret in (CANARY, other)]
    shell.send(*[{"question": each} for each in questions], to="both")
    shell.burst("--processes", "1")
    results = shell.results()
    assert len({result["agent"] for result in results}) > 1
    assert {result["result"][1:] for result in results} == {" ***"}
    assert all(secret not in json.dumps(results) for secret in (CANARY, other))


@pytest.mark.long
def test_a_secret_over_the_cut_leaves_no_part(shell: Project) -> None:
    result = _answers(shell, "long")["long"]
    assert len(result["result"]) > 100_000
    assert "canary" not in json.dumps(result)
    assert "canary" not in json.dumps(_answers(shell, "long-error")["long-error"])


def test_a_deep_span_costs_no_answer(shell: Project) -> None:
    result = _answers(shell, "deep-trace")["deep-trace"]
    assert (result["outcome"], result["result"]) == ("ok", "paid")
    assert "nested deeper" in json.dumps(result["trace"][0])


def test_a_program_that_cannot_work_here_is_a_failure_of_the_set_up(shell: Project) -> None:
    results = _answers(shell, "config", "missing")
    for result in results.values():
        assert (result["outcome"], result["attempt"]) == ("infra_error", 1)
        assert result["error"]["permanent"] is True
    assert "a program was not found" in results["missing"]["error"]["message"]
    assert shell.stats()["dead"] == 2


@pytest.mark.long
def test_what_it_leaves_running_is_ended_also_at_the_limit(shell: Project) -> None:
    fleet = shell.work("--processes", "1").ready(1)
    shell.send("litter", "hang", "last", to="sh")
    shell.until(delivered=3)
    wait_until(lambda: not _sleepers(shell), PATIENCE_S, "the sleepers are ended")
    fleet.stop()


@pytest.mark.parametrize(
    "kind", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)]
)
def test_its_processes_end_with_the_worker(shell: Project, kind: signal.Signals) -> None:
    shell.environ["AGENTPIPE_GRACE_S"] = "0"
    fleet = shell.work("--processes", "1").ready(1)
    shell.send("hang", to="sh")
    wait_until(lambda: len(_sleepers(shell)) == 2, PATIENCE_S, "the program runs")
    (worker,) = fleet.pids
    os.kill(worker, kind)
    wait_until(lambda: not _sleepers(shell), PATIENCE_S, "its processes have ended")
    fleet.stop()


def _sleepers(project: Project) -> set[int]:
    """The ``sleep`` processes of this test, found by a variable of the context."""
    mark = f"MARK={project.folder}/mark"
    return processes_with(mark, "environ") & processes_with("sleep")


@pytest.mark.long
def test_no_artefact_holds_the_token(shell: Project) -> None:
    fleet = shell.work("--processes", "1").ready(1)
    shell.send("token", "fail", "later", "env", to="sh")
    shell.until(delivered=4)
    commands = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in shell.processes())
    fleet.stop()
    assert CANARY.encode() not in commands
    assert CANARY not in fleet.log + shell.ok("tail", "--from", "beginning", "--timeout", "0").out
    for file in (shell.folder / "store").iterdir():
        assert CANARY.encode() not in file.read_bytes(), file


# Runs without a worker.


def _engine(folder: Path, **config: Any) -> Any:
    (folder / "answer.sh").write_text(SCRIPT)
    (folder / "agent.yaml").write_text(_agent(**config))
    return open_engine(load_agent_config(folder / "agent.yaml"))


def _ask(engine: Any, questions: Sequence[str], context: Context) -> list[Any]:
    async def ask() -> list[Any]:
        instance = Instance("sh", engine, context, in_thread=False)
        ends: list[Any] = []
        for question in questions:
            try:
                ends.append(await instance.answer(Task(question=question), PATIENCE_S))
            except (AgentFailed, AnswerError) as error:
                ends.append(error)
        await instance.close()
        return ends

    return asyncio.run(ask())


def test_too_much_output_is_cut_off_and_told(tmp_path: Path) -> None:
    engine = _engine(tmp_path, max_output_bytes=2_000)
    much, fine = _ask(engine, ["much", "fine"], Context())
    assert "more than 2,000 bytes: raise max_output_bytes" in str(much)
    assert fine == "fine"


def test_an_argument_that_is_too_long_is_told(tmp_path: Path) -> None:
    (end,) = _ask(_engine(tmp_path), ["x" * 200_000], Context())
    assert "its arguments are too long; read the task from stdin instead" in str(end)
    assert not is_infra(end)  # It is the task's error.


SPOILED: dict[str, Callable[[Path], Any]] = {
    "removed": Path.unlink,
    "forbidden": lambda program: program.chmod(0o644),
    "broken": lambda program: program.write_bytes(b"\x7fELF"),
    "no interpreter": lambda program: program.write_text("#!/nowhere/sh\n"),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_a_program_that_cannot_be_started_is_a_failure_of_the_set_up(
    tmp_path: Path, spoil: Callable[[Path], Any]
) -> None:
    program = tmp_path / "answer"
    program.write_text("#!/bin/sh\necho fine")
    program.chmod(0o755)
    engine = _engine(tmp_path, argv=["./answer"])
    assert _ask(engine, ["?"], Context()) == ["fine"]
    spoil(program)
    (end,) = _ask(engine, ["?"], Context())
    assert isinstance(end, AgentFailed)
    assert (end.permanent, end.infra) == (True, True)
    assert "cannot be started" in str(end)


@pytest.mark.long
def test_no_file_descriptor_leaks(tmp_path: Path) -> None:
    engine = _engine(tmp_path)
    files = Path("/proc/self/fd")
    _ask(engine, ["warm"], Context())
    before = len(list(files.iterdir()))
    ends = _ask(engine, ["a", "fail", "json", "litter"] * 50, Context({"TOKEN": "x"}))
    assert sum(isinstance(end, AgentFailed) for end in ends) == 50
    wait_until(lambda: len(list(files.iterdir())) <= before, PATIENCE_S, "all is closed")


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"argv": []}, "argv: expected the program and its arguments"),
    ({"argv": "sh x"}, "argv: expected the program and its arguments"),
    ({"argv": ["none-such"]}, "argv: no such program 'none-such'"),
    ({"argv": ["./none.sh"]}, "argv: no such program"),
    ({"argv": ["sh", "{{ queston }}"]}, "did you mean 'question'?"),
    ({"argv": ["sh", "{{ TOKEN }}"]}, "the context's values are in the program's environment"),
    ({"argv": ["{{ question }}"]}, "the program itself cannot be a placeholder"),
    ({"argv": ["sh", "-c", "echo {{ question }}"]}, "argv: 'echo {{ question }}' is code"),
    ({"argvs": 1}, "unknown key 'argvs' in config: did you mean 'argv'?"),
    ({"pass_env": "PATH"}, "pass_env: expected a list of names"),
    ({"max_output_bytes": 0}, "max_output_bytes: expected a whole number"),
]


def test_each_mistake_is_told_with_its_place(project: Project) -> None:
    files = []
    for number, (config, _) in enumerate(MISTAKES):
        files.append(project.write(f"command-{number}.yaml", _agent(**config)))
        project.collection(f"sh-{number}", f"./command-{number}.yaml")
    done = project.run("check", "--json")
    assert done.code == 2
    first = {each["file"]: each for each in reversed(done.json["problems"])}
    for file, (_, message) in zip(files, MISTAKES, strict=True):
        problem = first[str(file)]
        assert message in problem["message"]
        key = re.match(r"(?:unknown key ')?(\w+)", problem["message"])
        assert key
        lines = [line.strip().partition(":")[0] for line in file.read_text().splitlines()]
        named = key[1] if key[1] in lines else "config"
        assert problem["line"] == lines.index(named) + 1
