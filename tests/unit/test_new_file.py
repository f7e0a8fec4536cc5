"""A new file appears complete or not at all, with the permissions of its source."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.connections.new_file import new_file
from agentpipe.errors import AgentpipeError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def fill(path: Path, data: bytes, then: Callable[[], Any], *, force: bool = False) -> None:
    with new_file(path, force=force) as file:
        file.write(data)
        then()


def leftovers(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with new_file(path, force=False) as file:
        file.write(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one"
    with pytest.raises(ZeroDivisionError):
        fill(path, b"two", lambda: 1 // 0, force=True)
    assert path.read_bytes() == b"one"
    assert leftovers(tmp_path) == ["out.jsonl"]


def test_a_file_is_replaced_only_by_force(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(b"old")
    with pytest.raises(ConfigError, match="--force"), new_file(path, force=False):
        raise AssertionError
    with new_file(path, force=True) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with pytest.raises(ConfigError, match="meanwhile"):
        fill(path, b"ours", lambda: path.write_bytes(b"theirs"))
    assert path.read_bytes() == b"theirs"
    assert leftovers(tmp_path) == ["out.jsonl"]


def test_what_is_no_file_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "none" / "out"):
        with pytest.raises(ConfigError), new_file(path, force=True):
            raise AssertionError
    assert leftovers(tmp_path) == ["pipe"]


def test_a_full_disk_is_an_error_with_the_path(tmp_path: Path) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "out.jsonl"
    with pytest.raises(AgentpipeError, match=r"out\.jsonl cannot be written: No space"):
        fill(path, b"data", full)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(("source", "expected"), [(0o600, 0o600), (0o644, 0o644), (0o660, 0o640)])
def test_a_copy_is_open_to_those_only_who_may_read_its_source(
    tmp_path: Path, source: int, expected: int
) -> None:
    database, path = tmp_path / "results.db", tmp_path / "out.jsonl"
    database.touch()
    database.chmod(source)
    before = os.umask(0o022)
    try:
        with new_file(path, force=False, like=database):
            pass
        with new_file(tmp_path / "other", force=False):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == expected
    assert stat.S_IMODE((tmp_path / "other").stat().st_mode) == 0o600
