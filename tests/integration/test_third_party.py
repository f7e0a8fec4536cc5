"""A store of somebody else's: installed beside agentpipe, chosen by its URL, tested like ours."""

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


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package ``toystore`` is installed, from its own metadata and offline."""
    folder = tmp_path_factory.mktemp("third-party")
    source = shutil.copytree(HERE / "third_party", folder / "source")
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", *options, "-t", folder / "site", source],
        check=True,
        timeout=60,
    )
    return folder / "site"


@pytest.mark.long
def test_a_store_of_somebody_elses_passes_the_conformance_suite(site: Path) -> None:
    suite = [sys.executable, "-m", "pytest", "tests/conformance/test_store.py", "-x"]
    done = subprocess.run(
        [*suite, "--store-url", "toy:///{folder}/toy.json", "-p", "no:cacheprovider"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"^\d+ passed in", done.stdout, re.MULTILINE), "none is skipped"


def test_workers_and_senders_find_it_by_its_url(site: Path, project: Project) -> None:
    project.environ["PYTHONPATH"] = str(site)
    project.environ["AGENTPIPE_BROKER"] = "toy:///toy.json"
    project.collection(number=4)
    ids = project.send("one", "two", "three")
    project.burst("--processes", "2")
    assert sorted(project.by_id()) == sorted(ids)
    assert project.ok("status", "--json").json["delivered"] == 3


def test_its_scheme_is_known_like_any_of_ours(site: Path, project: Project) -> None:
    project.collection()
    known = {"PYTHONPATH": str(site)}
    done = project.run("status", "--broker", "tey:///toy.json", env=known)
    assert (done.code, "did you mean 'toy'?" in done.err) == (2, True), done
    done = project.run("status", "--broker", "toy:///toy.json")
    assert (done.code, "no broker 'toy' is installed" in done.err) == (2, True), done
