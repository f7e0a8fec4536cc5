"""The scripts for shells, as far as these shells are here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agentpipe import cli
from agentpipe.cli.completion import places

if TYPE_CHECKING:
    from tests.integration.project import Project

SHELLS = ("bash", "zsh", "fish")


def completed(project: Project, *words: str) -> set[str]:
    """What bash offers for the last of the words."""
    script = project.ok("completion", "bash").out
    Path(project.folder, "complete.bash").write_text(script)
    code = """
source complete.bash
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
compopt() { :; }  # Only there while a line is completed.
_agentpipe
printf '%s\\n' "${COMPREPLY[@]}"
"""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code, "bash", "agentpipe", *words],
        cwd=project.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_bash_completes_commands_actions_options_choices_and_files(project: Project) -> None:
    project.collection()
    assert completed(project, "") == set(cli.COMMANDS)
    assert completed(project, "s") == {"send", "status", "schedule", "start-workers"}
    assert completed(project, "schedule", "") == {"run", "list"}
    assert completed(project, "dead", "r") == {"replay"}
    assert completed(project, "--v") == {"--version"}
    assert completed(project, "send", "--on") == {"--on-full"}
    assert completed(project, "send", "toys", "--on-full", "") == {"refuse", "wait"}
    assert completed(project, "schedule", "list", "--c") == {"--count", "--collection-file"}
    assert completed(project, "work", "-c", "coll") == {"collection.yaml"}
    assert completed(project, "check", "agent.y") == {"agent.yaml"}
    assert completed(project, "send", "--metadata", "") == set()
    assert completed(project, "completion", "") == set(SHELLS)
    # An option's value is no command.
    assert completed(project, "send", "--metadata", "tail", "--on") == {"--on-full"}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_can_be_read_by_its_shell(project: Project, shell: str) -> None:
    script = project.ok("completion", shell).out
    assert project.ok("completion", shell, "--json").json == {"shell": shell, "script": script}
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_each_option_is_in_each_script(project: Project) -> None:
    scripts = {shell: project.ok("completion", shell).out for shell in SHELLS}
    flags = {flag for place in places(cli.whole_parser()) for flag in place.flags}
    assert "--on-full" in flags
    for flag in flags:
        assert flag in scripts["bash"]
        assert flag in scripts["zsh"]
        long = flag.startswith("--")
        assert f"-{'l' if long else 's'} {flag.lstrip('-')}" in scripts["fish"]


def test_an_unknown_shell_is_refused(project: Project) -> None:
    done = project.run("completion", "fsh")
    assert done.code == 2
    assert "did you mean 'fish'" in done.err


def test_the_version_is_told(project: Project) -> None:
    assert project.ok("--version").out.startswith("agentpipe 0.")
