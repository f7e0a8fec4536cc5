"""The scripts for shells, as far as these shells are here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agentpipe import cli
from agentpipe.cli.completion import places
from tests.integration.tmux import Tmux

if TYPE_CHECKING:
    from tests.integration.project import Project

SHELLS = ("bash", "zsh", "fish")
AGENTPIPE = Path(sys.executable).parent / "agentpipe"


def completed(project: Project, *words: str) -> set[str]:
    """What bash offers for the last of the words."""
    script = Path(project.folder, "complete.bash")
    if not script.exists():
        script.write_text(project.ok("completion", "bash").out)
    code = """
source complete.bash
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
compopt() { :; }  # Only there while a line is completed.
_agentpipe
printf '%s\\n' "${COMPREPLY[@]}"
"""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code, "bash", str(AGENTPIPE), *words],
        cwd=project.folder,
        env=project.environ,
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


def test_bash_completes_the_names_of_collections(project: Project) -> None:
    project.collection("toys")
    project.collection("tools", number=0)  # Its name is one, whatever is wrong with it.
    assert completed(project, "send", "") == {"toys", "tools"}
    assert completed(project, "purge", "too") == {"tools"}
    assert completed(project, "tail", "--collection", "to") == {"toys", "tools"}
    assert completed(project, "tail", "--collection", "=", "toy") == {"toys"}
    assert completed(project, "dead", "replay", "--to", "=") == {"toys", "tools"}
    project.write("other.yaml", "kind: collection\nspec: {name: other, config: ./agent.yaml}\n")
    assert completed(project, "send", "-c", "other.yaml", "") == {"other"}
    assert completed(project, "send", "--collection-file", "=", "other.yaml", "") == {"other"}
    assert completed(project, "send", "-c", "none.yaml", "") == set()


def test_names_are_printed_for_the_scripts(project: Project) -> None:
    project.collection("toys")
    assert project.ok("completion", "zsh", "--collections").out == "toys\n"
    told = project.ok("completion", "zsh", "--collections", "--json").json
    assert told == {"collections": ["toys"]}
    done = project.run("completion", "bash", "--collections", "-c", "none.yaml")
    assert (done.code, done.out) == (2, "")


def test_a_tab_in_a_terminal_does_it(project: Project) -> None:
    project.collection("toys")
    path = f"{AGENTPIPE.parent}:{project.environ['PATH']}"
    with Tmux(project.folder, {**project.environ, "PATH": path}) as terminal:
        terminal.type('eval "$(agentpipe completion bash)"; echo $((40 + 2)) ready')
        terminal.press("Enter")
        terminal.see("42 ready")
        terminal.type("agentpipe se")
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

    assert offered("se") == {"send"}
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
