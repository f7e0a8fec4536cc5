"""The completion scripts, for the shells installed here."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agentpipe.cli import send
from agentpipe.cli.commands import COMMANDS
from tests.integration.tmux import Tmux

if TYPE_CHECKING:
    from tests.integration.project import Project

SHELLS = ("bash", "zsh", "fish")
AGENTPIPE = Path(sys.executable).parent / "agentpipe"


def completed(project: Project, line: str, program: object = AGENTPIPE) -> set[str]:
    """Bash's completions for the last word of ``agentpipe {line}``."""
    script = Path(project.folder, "complete.bash")
    if not script.exists():
        script.write_text(project.ok("completion", "bash").out)
    code = """
source complete.bash
COMP_LINE=$1; COMP_POINT=${#COMP_LINE}; COMP_TYPE=9
compopt() { :; }  # Only there while a line is completed.
_python_argcomplete "$2" || true
printf '%s\\n' "${COMPREPLY[@]}"
"""
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", code, "bash", f"{program} {line}", str(program)],
        cwd=project.folder,
        env={**os.environ, **project.environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.long
def test_bash_completes_commands_actions_options_choices_and_files(project: Project) -> None:
    project.collection()
    assert completed(project, "") == set(COMMANDS)
    assert completed(project, "s") == {name for name in COMMANDS if name.startswith("s")}
    assert completed(project, "schedule ") == {"run", "list"}
    assert completed(project, "dead r") == {"replay"}
    assert completed(project, "--v") == {"--version"}
    assert completed(project, "send --on") == {"--on-full"}
    assert completed(project, "send toys --on-full ") == {"refuse", "wait"}
    assert completed(project, "schedule list --c") == {"--count", "--collection-file"}
    assert completed(project, "work -c coll") == {"collection.yaml"}
    assert completed(project, "check agent.y") == {"agent.yaml"}
    assert completed(project, "send --metadata ") == set()
    assert completed(project, "completion ") == set(SHELLS)
    # An option's value is not taken for a command.
    assert completed(project, "send --metadata tail --on") == {"--on-full"}


@pytest.mark.long
def test_bash_completes_the_names_of_collections(project: Project) -> None:
    project.collection("toys")
    project.collection("tools", number=0)  # Invalid, but its name is still completed.
    assert completed(project, "send ") == {"toys", "tools"}
    assert completed(project, "purge too") == {"tools"}
    assert completed(project, "tail --collection to") == {"toys", "tools"}
    assert completed(project, "tail --collection=toy") == {"toys"}
    assert completed(project, "dead replay --to=") == {"toys", "tools"}
    project.write("other.yaml", "kind: collection\nspec: {name: other, config: ./agent.yaml}\n")
    assert completed(project, "send -c other.yaml ") == {"other"}
    assert completed(project, "send --collection-file=other.yaml ") == {"other"}
    assert completed(project, "send -c none.yaml ") == set()


def test_bash_completes_each_option_of_a_command(project: Project) -> None:
    parser = argparse.ArgumentParser()
    send.add(parser)
    assert completed(project, "send -") == set(parser._option_string_actions)  # noqa: SLF001
    assert completed(project, "dead replay --") >= {"--to", "--collection", "--help", "--json"}


def test_bash_runs_the_program_as_it_was_typed(project: Project) -> None:
    Path(project.folder, "agentpipe").symlink_to(AGENTPIPE)
    project.environ["HOME"] = str(project.folder)
    assert completed(project, "sen", "./agentpipe") == {"send"}
    assert completed(project, "sen", "~/agentpipe") == {"send"}


def test_a_mistake_in_the_collection_file_completes_nothing(project: Project) -> None:
    project.write("collection.yaml", "kind: [\n")
    assert completed(project, "send ") == set()


@pytest.mark.parametrize(
    ("shell", "prepare"),
    [
        ("bash", 'eval "$(agentpipe completion bash)"'),
        ("zsh", "autoload -U compinit; compinit -u -D; source <(agentpipe completion zsh)"),
    ],
)
def test_a_tab_in_a_terminal_does_it(project: Project, shell: str, prepare: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    project.collection("toys")
    path = f"{AGENTPIPE.parent}:{project.environ['PATH']}"
    with Tmux(project.folder, {**project.environ, "PATH": path}) as terminal:
        if shell == "zsh":
            terminal.type("zsh -f")
            terminal.press("Enter")
        terminal.type(f"{prepare}; echo $((40 + 2)) ready")
        terminal.press("Enter")
        terminal.see("42 ready")
        terminal.type("agentpipe sen")
        terminal.press("Tab")
        terminal.see("agentpipe send")
        terminal.type("t")
        terminal.press("Tab")
        terminal.see("agentpipe send toys")
        terminal.type(" --on-full=w")
        terminal.press("Tab")
        terminal.see("--on-full=wait")
        terminal.type(" -c coll")
        terminal.press("Tab")
        terminal.see("-c collection.yaml")


def test_fish_completes_where_it_is_here(project: Project) -> None:
    if not (fish := shutil.which("fish")):
        pytest.skip("no fish here")
    project.collection("toys")
    Path(project.folder, "complete.fish").write_text(project.ok("completion", "fish").out)

    def offered(line: str) -> set[str]:
        code = f"source complete.fish; complete -C '{AGENTPIPE} {line}'"
        command = [fish, "--no-config", "-c", code]
        done = subprocess.run(
            command,
            cwd=project.folder,
            env={**os.environ, **project.environ},
            capture_output=True,
            check=True,
        )
        return {each.partition("\t")[0] for each in done.stdout.decode().splitlines()}

    assert offered("sen") == {"send"}
    assert offered("send t") == {"toys"}
    assert offered("send --on-full ") == {"refuse", "wait"}
    assert offered("work -c coll") == {"collection.yaml"}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_can_be_read_by_its_shell(project: Project, shell: str) -> None:
    script = project.ok("completion", shell).out
    assert project.ok("completion", shell, "--json").json == {"shell": shell, "script": script}
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_an_unknown_shell_is_refused(project: Project) -> None:
    done = project.run("completion", "fsh")
    assert done.code == 2
    assert "did you mean 'fish'" in done.err


def test_the_version_is_told(project: Project) -> None:
    assert project.ok("--version").out.startswith("agentpipe 0.")
