"""A command's arguments: a task's text is passed as data to any program."""

from __future__ import annotations

import pytest

from agentpipe.engines.command.argv import argv_problems

Q = "{{ question }}"


@pytest.mark.parametrize(
    "argv",
    [
        ["sh", "-c", f"echo {Q}"],
        ["/bin/bash", "-lc", Q],
        ["bash", "-o", "pipefail", "-c", f"{Q} | wc"],
        ["env", "A=b", "zsh", "-ec", "echo {{ metadata.name }}"],
        ["timeout", "5", "python3.11", "-X", "dev", "-c", f"print('{Q}')"],
        ["python", "-c" + Q],
        ["node", "--eval", "f('{{ category }}')"],
        ["node", f"--print={Q}"],
        ["perl", "-ne", "print {{task_id}}"],
        ["docker", "run", "image", "sh", "-c", f"answer {Q}"],
    ],
)
def test_what_an_interpreter_runs_is_never_a_tasks_text(argv: list[str]) -> None:
    (problem,) = argv_problems(argv)
    assert "is code for an interpreter, and a task would write it" in problem


@pytest.mark.parametrize(
    "argv",
    [
        ["sh", "-c", 'echo "$1"', "sh", Q],
        ["sh", "-c", "cd {{ here }} && ./answer"],
        ["sh", "{{ here }}/answer.sh", Q],
        ["sh", "./answer.sh", "-c", Q],
        ["python", "-m", "answers", "-c", Q],
        ["python", "-X", "dev", "answers.py", "-e", Q],
        ["claude", "--print", "--", Q],
        ["grep", "-e", Q, "sh"],
        ["answers", "-c", Q],
    ],
)
def test_other_arguments_may_be(argv: list[str]) -> None:
    assert argv_problems(argv) == []
