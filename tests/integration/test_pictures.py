"""The documents' pictures: drawn from a run, up to date with `top`, and without network access."""

from __future__ import annotations

import fcntl
import html
import re
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from agentpipe.tui.panels import WIDE, _columns
from docs.pictures import pages
from tests.chromium import chromium

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
# Offset of width and height, which are in the first chunk of a PNG.
SIZE_AT = 16
PICTURES = ("top", "agents", "dead")
PAGES = tuple(
    f"web-{name}-{theme}" for name in ("fleet", "run", "task") for theme in ("light", "dark")
)
MAX_PAGE_BYTES = 150_000
TIMEOUT_S = 150

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory, testrun_uid: str) -> Path:
    """Images of one run, drawn once and shared by all test processes."""
    chromium()
    shared = tmp_path_factory.getbasetemp().parent / f"images-{testrun_uid}"
    shared.mkdir(exist_ok=True)
    folder = shared / "drawn"
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            command = [sys.executable, "-m", "docs.pictures", "--seconds", "2", str(folder)]
            subprocess.run(command, cwd=ROOT, check=True, timeout=TIMEOUT_S)
    return folder


def words(picture: Path) -> str:
    """The text in a picture, one line for each piece of a style."""
    texts = re.findall(r"<text[^>]*>(.*?)</text>", picture.read_text())
    return "\n".join(html.unescape(text).replace("\xa0", " ").strip() for text in texts)


def test_they_are_drawn_from_a_run(drawn: Path) -> None:
    names = [f"{name}.svg" for name in PICTURES] + [f"{name}.png" for name in PAGES]
    assert sorted(path.name for path in drawn.iterdir()) == sorted(names)
    assert "\n2,200\n" in words(drawn / "top.svg")  # The number of tasks sent.
    assert "worker-2" in words(drawn / "top.svg")
    assert "ferries_5" in words(drawn / "agents.svg")
    assert "r replay" in words(drawn / "dead.svg")


@pytest.mark.parametrize("name", PICTURES)
def test_those_that_are_kept_show_what_is_drawn_today(drawn: Path, name: str) -> None:
    kept, new = ROOT / "docs" / "images" / f"{name}.svg", drawn / f"{name}.svg"
    for picture in (kept, new):
        titles = [] if name == "dead" else [column.title for column in _columns(WIDE)]
        assert [title for title in titles if title not in words(picture)] == []
    keys = words(new).splitlines()[-1]
    assert words(kept).splitlines()[-1] == keys, "run `make docs`"


@pytest.mark.parametrize("name", PICTURES)
def test_they_fetch_nothing_and_tell_of_no_machine(drawn: Path, name: str) -> None:
    for picture in (ROOT / "docs" / "images" / f"{name}.svg", drawn / f"{name}.svg"):
        text = picture.read_text()
        assert "@font-face" not in text
        assert re.findall(r"(?:url\(|href=)[\"']?(?!#)[^)\"']+", text) == []
        assert not re.search(rf"\b{re.escape(socket.gethostname())}-\d", text)
        assert "/tmp" not in text


@pytest.mark.parametrize("name", PAGES)
def test_photographs_of_pages_are_small_and_have_the_parts_of_todays(
    drawn: Path, name: str
) -> None:
    kept, new = ((place / f"{name}.png").read_bytes() for place in (IMAGES, drawn))
    for picture in (kept, new):
        assert struct.unpack_from(">II", picture, SIZE_AT) == pages.SIZE
        assert len(picture) <= MAX_PAGE_BYTES
    assert "Fleet" in pages.parts_in(new)
    assert pages.parts_in(kept) == pages.parts_in(new), "run `make docs`"


def test_a_photograph_keeps_its_parts() -> None:
    picture = (IMAGES / "web-run-light.png").read_bytes()
    parts = pages.parts_in(picture)
    assert {"Fleet", "Runs", "question", "outcome", "reward"} <= set(parts)
    whole = pages.with_parts(picture, ["other"])  # The first entry counts.
    assert pages.parts_in(whole) == ["other"]


def test_the_themes_differ_in_ink_only() -> None:
    for name in ("fleet", "run", "task"):
        light, dark = ((IMAGES / f"web-{name}-{it}.png").read_bytes() for it in ("light", "dark"))
        assert light != dark
        assert pages.parts_in(light) == pages.parts_in(dark)
