"""systemd units: valid, without credentials, and with enough time for running tasks."""

from __future__ import annotations

import shutil
import subprocess
import sys
from configparser import RawConfigParser
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.config.collection import load
from agentpipe.connections.credentials import from_credentials
from agentpipe.deploy.systemd import Machine, Unit, units
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

CANARY = "canary-51d0"
AGENT = 'kind: agent\nspec: {name: a, type: command, config: {command: ["true"]}}\n'
COLLECTION = f"""kind: collection
spec:
  name: evals
  config: agent.yaml
  time_limit: 90
  context:
    - env:
        KEY: ${{TOKEN}}
        CERT: ${{file:/run/credentials/agentpipe-evals.service/cert.pem}}
        OWN: ${{file:/srv/keys/own}}
        WRITTEN: {CANARY}
"""


def made(folder: Path, text: str = COLLECTION, **machine: Any) -> list[Unit]:
    (folder / "agent.yaml").write_text(AGENT)
    (folder / "collection.yaml").write_text(text)
    program = shutil.which("true") or "/bin/true"
    collections = load(folder / "collection.yaml", 100)
    return units(collections, Machine(**{"program": program, "user": "root", **machine}))


def lines(unit: Unit, key: str) -> list[str]:
    return [it.split("=", 1)[1] for it in unit.text.splitlines() if it.startswith(f"{key}=")]


def verify(folder: Path, found: list[Unit]) -> None:
    """Check sections, and run systemd's own verification if it is installed."""
    for unit in found:
        (folder / unit.name).write_text(unit.text)
        parsed = RawConfigParser(strict=False, delimiters="=")
        parsed.read_string(unit.text)
        assert parsed.sections() == ["Unit", "Service", "Install"]
    if program := shutil.which("systemd-analyze"):
        files = [str(folder / unit.name) for unit in found]
        done = subprocess.run(
            [program, "verify", "--man=no", *files], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_unit_fits_systemd(tmp_path: Path) -> None:
    schedule = COLLECTION + "  schedule: [{cron: '0 6 * * *', tasks: tasks.jsonl}]\n"
    (tmp_path / "tasks.jsonl").write_text('{"question": "q"}\n')
    found = made(tmp_path, schedule)
    assert [it.name for it in found] == [
        "agentpipe-evals.service",
        "agentpipe-evals-schedule.service",
    ]
    verify(tmp_path, found)


def test_a_folder_may_have_a_blank_and_a_percent_sign(tmp_path: Path) -> None:
    odd = tmp_path / "100 % sure"
    odd.mkdir()
    (unit,) = made(odd)
    assert "100 %% sure" in unit.text
    verify(tmp_path, [unit])


@pytest.mark.parametrize("name", ['a"b', "a'b", "a\\b", "a\nb", "a$b", "a;b"])
def test_a_folder_that_a_unit_cannot_name_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match="cannot stand in a unit"):
        made(tmp_path / name)


@pytest.mark.parametrize(
    "said",
    [
        {"user": f"a {CANARY}"},
        {"user": ""},
        {"program": "agentpipe"},
        {"variables": (f"TOKEN={CANARY}",)},
        {"variables": (f"A {CANARY}",)},
    ],
)
def test_what_no_unit_takes_is_refused_and_not_repeated(
    tmp_path: Path, said: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=r"^--") as found:
        made(tmp_path, **said)
    assert CANARY not in str(found.value)


def test_credentials_are_in_an_absolute_folder() -> None:
    with pytest.raises(ConfigError, match="--credentials"):
        Machine("/bin/true", folder="etc/agentpipe")


def test_credentials_are_loaded_and_never_printed(tmp_path: Path) -> None:
    (unit,) = made(tmp_path, variables=("OPENAI_API_KEY",))
    keys = ("AGENTPIPE_BROKER", "AGENTPIPE_SINK", "OPENAI_API_KEY", "TOKEN", "cert.pem")
    assert lines(unit, "LoadCredential") == [f"{key}:/etc/agentpipe/{key}" for key in keys]
    assert CANARY not in unit.text


def test_runs_have_time_and_a_drained_service_stays_away(tmp_path: Path) -> None:
    (unit,) = made(tmp_path)
    assert "AGENTPIPE_GRACE_S=180" in lines(unit, "Environment")
    assert [int(it) > 180 for it in lines(unit, "TimeoutStopSec")] == [True]
    assert lines(unit, "KillMode") == ["mixed"]
    assert lines(unit, "Restart") == ["on-failure"]


def test_only_root_can_become_the_users_of_collections(tmp_path: Path) -> None:
    (unit,) = made(tmp_path, COLLECTION + "  user: nobody\n")
    assert not lines(unit, "User")
    assert not lines(unit, "NoNewPrivileges")
    verify(tmp_path, [unit])


def test_variables_are_read_from_the_credentials_of_a_service(tmp_path: Path) -> None:
    (tmp_path / "TOKEN").write_text("two\nlines\n")
    (tmp_path / "AGENTPIPE_SINK").write_text("other")
    (tmp_path / "cert.pem").write_bytes(b"\xff")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "AGENTPIPE_SINK": "set"}
    assert from_credentials(environ) == {"TOKEN": "two\nlines"}
    assert from_credentials({}) == {}
    assert from_credentials({"CREDENTIALS_DIRECTORY": str(tmp_path / "none")}) == {}
    (tmp_path / "BAD").write_bytes(CANARY.encode() + b"\xff")
    with pytest.raises(ConfigError, match="BAD cannot be read: no UTF-8") as caught:
        from_credentials(environ)
    assert CANARY not in str(caught.value)


def test_the_command_prints_units_and_what_must_be_there(tmp_path: Path) -> None:
    made(tmp_path)
    command = [sys.executable, "-m", "agentpipe", "deploy", "systemd"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"TOKEN": CANARY}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# /etc/systemd/system/agentpipe-evals.service\n[Unit]\n")
    assert "/etc/agentpipe must have a file" in done.stderr
    assert CANARY not in done.stdout + done.stderr
