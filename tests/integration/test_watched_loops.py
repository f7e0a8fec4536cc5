"""A trainer's loop as operators see it: while its trainer holds a batch, and after its end."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.trainers import (
    end_of,
    reach,
    settings_on,
    trainer,
    working,
    write_project,
)
from tests.support import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from agentpipe import Settings
    from tests.integration.command_forks import CommandForks


# The conformance suite tests what both stores keep of a loop.
@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.long)])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    return settings_on(request, tmp_path)


def test_a_loop_is_seen_with_its_trainer_its_run_and_its_tasks(
    settings: Settings, tmp_path: Path, command_forks: CommandForks
) -> None:
    urls = ["--broker", settings.broker, "--sink", settings.sink]

    def told(*words: str) -> str:
        code, out, err = command_forks.run([*words, *urls], b"", os.environ, tmp_path, 60)
        assert code == 0, err
        return out.decode()

    def ask(*words: str) -> Any:
        return json.loads(told(*words, "--json"))

    write_project(tmp_path, with_policy=True)
    (tmp_path / "meet-used-1").touch()
    with working(settings, tmp_path):
        living = trainer(settings, tmp_path)
        reach(living, tmp_path, "used-1")
        loop: dict[str, Any] = {}

        def has_told() -> bool:
            (seen,) = ask("status")["loops"]
            loop.update(seen)
            return (loop["used"], loop["state"]) == (6, "trains")

        wait_until(has_told, 30, "it says what it has used, and that it trains")
        assert (loop["name"], loop["run"], loop["pid"]) == ("mixed", "mixed", living.pid)
        assert (loop["policy"], loop["collection"], loop["batch"]) == ("main", "mixed", 3)
        assert (loop["step"], loop["used"], loop["state"]) == (2, 6, "trains")
        counts = loop["counts"]
        assert counts["flat"] + counts.get("stale", 0) == loop["wasted"] >= 1
        assert loop["out"] == loop["sent"] - 6 - loop["wasted"]
        assert "loop mixed: trains" in told("status")
        shown = told("top", "--once")
        assert "loops" in shown
        assert "trains" in shown
        (run,) = ask("runs")["runs"]
        assert (run["name"], run["collection"]) == ("mixed", "mixed")
        assert run["tasks"] == 4 * loop["sent"]
        record = ask("runs", "show", "mixed")
        assert record["loop"]["prefix"] == "mixed/"
        assert record["loops"][0]["pid"] == living.pid
        assert "loop mixed: trains" in told("runs", "show", "mixed")
        task = ask("why", "mixed/000000/0")
        assert task["loop"]["pid"] == living.pid
        assert "its loop mixed trains" in task["sentence"]
        assert f"process {living.pid} on " in task["sentence"]
        (tmp_path / "go-used-1").touch()
        end_of(living)
        assert ask("status")["loops"] == []
        task = ask("why", "mixed/000000/0")
        assert task["loop"] is None
        assert "no trainer has the loop of run mixed now" in task["sentence"]
