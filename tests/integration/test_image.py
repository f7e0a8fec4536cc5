"""deploy/: the Dockerfile's steps in a scratch root, its process 1, and Compose's services."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentpipe.cli.commands import COMMANDS
from agentpipe.cli.parser import parser_for
from agentpipe.engines.process.process_tree import children_of
from agentpipe.settings import Settings
from tests.integration.scratch_root import instructions
from tests.support import wait_until

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PATIENCE_S = 300.0
can_build = pytest.mark.skipif(
    sys.platform != "linux"
    or os.geteuid() != 0
    or shutil.which("unshare") is None
    or sys.executable.startswith("/tmp/"),
    reason="a scratch root needs root, namespaces of Linux, and an environment outside its /tmp",
)


def steps() -> dict[str, str]:
    return dict(instructions((DEPLOY / "Dockerfile").read_text()))


def test_the_image_runs_as_nobody_and_its_commands_exist() -> None:
    found = steps()
    assert found["USER"] == "10001:10001"
    assert found["FROM"].endswith("-slim-bookworm")
    assert found["ENTRYPOINT"] == '["agentpipe"]'
    assert parser_for(COMMANDS).parse_args(["work"]).run
    assert parser_for(COMMANDS).parse_args(["probe", "live"]).run


def test_only_what_the_image_needs_is_sent_to_the_engine() -> None:
    sent = {
        it[1:] for it in (DEPLOY / "Dockerfile.dockerignore").read_text().split() if it[0] == "!"
    }
    copied = [
        it.split()[:-1]
        for name, it in instructions((DEPLOY / "Dockerfile").read_text())
        if name == "COPY"
    ]
    assert {source for sources in copied for source in sources} == sent
    assert all((ROOT / name).exists() for name in sent)


def test_the_services_of_compose_are_commands_with_settings_that_exist() -> None:
    services: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert services.keys() == {"workers", "metrics", "redis", "kafka"}
    for name in ("workers", "metrics"):
        service = services[name]
        assert parser_for(COMMANDS).parse_args(service["command"]).run
        assert service["depends_on"].keys() <= services.keys()
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        settings = Settings.from_env(service["environment"])
        assert (settings.broker, settings.sink) == (
            "redis://redis:6379/0",
            "kafka://kafka:9092/results",
        )
    grace_s = float(services["workers"]["environment"]["AGENTPIPE_GRACE_S"])
    assert float(services["workers"]["stop_grace_period"].rstrip("s")) >= grace_s + 30
    assert all("healthcheck" in services[name] for name in ("redis", "kafka"))


@can_build
@pytest.mark.long
def test_the_steps_build_an_image_whose_first_process_reaps_and_drains(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    shutil.copytree(ROOT / "configs", shared / "configs")
    shutil.copytree(ROOT / "actors", shared / "actors")
    environ = {
        **os.environ,
        "AGENTPIPE_BROKER": f"sqlite:///{shared}/broker.db",
        "AGENTPIPE_SINK": f"sqlite:///{shared}/results.db",
        "AGENT_COLLECTION_CONFIG_FILE": str(shared / "configs" / "echo.yaml"),
    }
    script = [sys.executable, str(Path(__file__).with_name("scratch_root.py"))]
    arguments = [
        str(DEPLOY / "Dockerfile"),
        str(ROOT),
        str(tmp_path),
        str(shared),
        "work",
        "--processes",
        "1",
    ]
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", *script, *arguments]
    for folder in (tmp_path, *tmp_path.parents[:2]):  # pytest closes its folders to other users.
        folder.chmod(0o755)
    log = (tmp_path / "log").open("w")
    with log, subprocess.Popen(command, env=environ, stderr=log, cwd=ROOT) as built:
        try:
            wait_until(
                lambda: "serves" in _log(tmp_path) or built.poll() is not None,
                PATIENCE_S,
                "a worker serves",
            )
            assert built.poll() is None, _log(tmp_path)
            (first,) = children_of(built.pid)
            status = Path(f"/proc/{first}/status").read_text()
            assert "NSpid:\t" in status
            assert status.split("NSpid:")[1].splitlines()[0].split()[-1] == "1"
            assert status.split("Uid:")[1].split()[0] == "10001"
            _orphan_is_reaped(first)
            wait_until(lambda: _log(tmp_path).count("serves") > 1, 60, "another worker serves")
            drained = subprocess.run(
                [*_inside(first), "agentpipe", "drain", "--here", "--wait"],
                env={**environ, "PATH": f"/usr/local/image/bin:{os.environ['PATH']}"},
                capture_output=True,
                text=True,
                check=False,
            )
            assert drained.returncode == 0, drained
            assert built.wait(60) == 0, _log(tmp_path)
        finally:
            built.kill()


def _inside(first: int) -> list[str]:
    """A command prefix to run beside process 1, as an engine does for a probe or hook."""
    user = ["--setuid", "10001", "--setgid", "10001"]
    return ["nsenter", "--target", str(first), "--mount", "--pid", "--root", "--wd", *user, "--"]


def _log(folder: Path) -> str:
    return (folder / "log").read_text()


def _orphan_is_reaped(first: int) -> None:
    """Kill Dramatiq's master: its worker becomes a child of process 1, and exits as an orphan."""
    (master,) = children_of(first)
    below = children_of(master)
    os.kill(master, signal.SIGKILL)
    gone = lambda: not any(Path(f"/proc/{pid}").exists() for pid in below)  # noqa: E731 - described below
    wait_until(gone, 120, "nothing of it is left, not even a zombie")
