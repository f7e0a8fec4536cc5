"""What an index shows of agentpipe, and what its texts tell people to install."""

from __future__ import annotations

import configparser
import re
import subprocess
from pathlib import Path

import pytest

from agentpipe.core.distribution import DISTRIBUTION, pip_install

ROOT = Path(__file__).parents[2]
# `agentpipe` on the Python Package Index is another project.
ANOTHER_PROJECT = re.compile(r"pip install[^\n`]*['\" ]agentpipe\b")


def configured() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_the_name_is_that_of_the_distribution() -> None:
    assert configured()["metadata"]["name"] == DISTRIBUTION


def test_each_extra_that_a_message_names_exists() -> None:
    extras = configured()["options.extras_require"]
    assert {"llm", "torch"} <= set(extras)
    assert pip_install("llm").endswith(" -m pip install 'dramatiq-agentpipe[llm]'")
    assert pip_install().endswith(" -m pip install dramatiq-agentpipe")


def test_the_long_description_links_only_to_what_an_index_can_reach() -> None:
    file = configured()["metadata"]["long_description"].removeprefix("file:").strip()
    text = Path(ROOT, file).read_text()
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert links
    assert [link for link in links if not link.startswith("https://")] == []


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
