"""What a package index shows of agentpipe, and what its docs tell users to install."""

from __future__ import annotations

import configparser
import re
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from agentpipe.config.mcp_servers import BUILT_IN
from agentpipe.core.distribution import DISTRIBUTION, pip_install

ROOT = Path(__file__).parents[2]
# `agentpipe` on the Python Package Index is a different project.
ANOTHER_PROJECT = re.compile(r"pip install[^\n`]*['\" ]agentpipe\b")


def configured() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_the_name_is_that_of_the_distribution() -> None:
    assert configured()["metadata"]["name"] == DISTRIBUTION


def test_each_extra_that_a_message_names_exists() -> None:
    extras = configured()["options.extras_require"]
    assert {"llm", "metrics", "otel", "pandas", "parquet", "torch", "web"} <= set(extras)
    assert pip_install("llm").endswith(" -m pip install 'dramatiq-agentpipe[llm]'")
    assert pip_install().endswith(" -m pip install dramatiq-agentpipe")


def test_the_long_description_links_only_to_what_an_index_can_reach() -> None:
    file = configured()["metadata"]["long_description"].removeprefix("file:").strip()
    text = Path(ROOT, file).read_text()
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert links
    assert [link for link in links if not link.startswith("https://")] == []


# Calendar versions have no majors, and setuptools is only used for building.
BY_DATE = {"tzdata", "mcp-server-time", "setuptools", "types-pika", "types-pyyaml", "packaging"}
LOCKS = {"requirements.lock": ("llm",), "requirements-dev.lock": ("llm", "dev")}


def required(*extras: str) -> list[Requirement]:
    lines = configured()["options"]["install_requires"].splitlines()
    for extra in extras:
        lines += configured()["options.extras_require"][extra].splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def pinned(lock: str) -> dict[str, list[str]]:
    """The line of each package, with its version and hashes."""
    text = (ROOT / lock).read_text().replace("\\\n", "")
    words = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(line[0].partition("==")[0]): line for line in words}


def test_each_requirement_has_a_ceiling() -> None:
    extras = configured()["options.extras_require"]
    for each in required(*extras):
        ceiling = any(bound.operator == "<" for bound in each.specifier)
        assert ceiling or canonicalize_name(each.name) in BY_DATE, str(each)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_satisfies_the_requirements_and_has_hashes(lock: str) -> None:
    found = pinned(lock)
    for each in required(*LOCKS[lock]):
        (spec, *_) = found[canonicalize_name(each.name)]
        assert spec.partition("==")[2] in each.specifier, f"{each}: run `make lock`"
    for name, (spec, *rest) in found.items():
        assert re.fullmatch(r"[\w.-]+==[\w.]+", spec), name
        assert [word for word in rest if re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", word)], name


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_index(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert set(re.findall(r"--[a-z-]+", text)) == {"--hash"}


def test_what_tests_install_is_the_same_in_both_locks() -> None:
    ours, theirs = pinned("requirements.lock"), pinned("requirements-dev.lock")
    assert {name: line[0] for name, line in ours.items()} == {
        name: theirs[name][0] for name in ours
    }


def test_each_server_that_is_fetched_has_a_version() -> None:
    starts = [entry["stdio"] for entry in BUILT_IN.values() if "stdio" in entry]
    fetched = {
        next(word for word in each["args"] if not word.startswith("-")): each["command"]
        for each in starts
        if each["command"] in ("npx", "uvx")
    }
    assert len(fetched) >= 10
    for package, command in fetched.items():
        version = r".+@\d[\w.]*" if command == "npx" else r".+==\d[\w.]*"
        assert re.fullmatch(version, package), package


def test_no_text_tells_to_install_another_project() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "*.md", "*.py", "*.yaml", "*.toml", "*.cfg", "Makefile"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("no clone")
    files = [ROOT / name for name in listed.stdout.split() if (ROOT / name).exists()]
    assert files
    found = [file for file in files if ANOTHER_PROJECT.search(file.read_text())]
    assert found == []
