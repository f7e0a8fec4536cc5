"""Scratch spaces: names, URLs through a proxy, and leftovers of killed trials."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

import orjson
import pytest

from agentpipe.chaos.space import LOCK, NOTE, Space, new_space, remove_left
from agentpipe.connections.url import with_parameters, with_server
from agentpipe.errors import ConfigError
from agentpipe.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

SQLITE = "sqlite:////tmp/r.db"


def space_of(broker: str, sink: str, folder: Path) -> Space:
    return Space.of(Settings(broker, sink), "chaos-1", folder)


@pytest.mark.parametrize(
    ("url", "own", "through"),
    [
        ("redis://h:1/2", "redis://h:1/2?prefix=agentpipe-chaos-1", "redis://127.0.0.1:9/2?prefix="),
        ("redis://u:p%40@h?prefix=mine", "redis://u:p%40@h?prefix=mine-chaos-1", "redis://u:p%40@127.0.0.1:9?"),
        ("amqp://u:p@[::1]:1/%2F", "amqp://u:p@[::1]:1/%2F?prefix=agentpipe-chaos-1", "amqp://u:p@127.0.0.1:9/%2F?"),
    ],
)  # fmt: skip
def test_a_broker_on_a_server(url: str, own: str, through: str, tmp_path: Path) -> None:
    scratch = space_of(url, SQLITE, tmp_path).broker
    assert scratch.url == own
    assert scratch.detour is not None
    assert scratch.detour.through(9).startswith(through)


@pytest.mark.parametrize(
    ("url", "own"),
    [
        ("kafka://h:1,k/mine?recall=5", "kafka://h:1,k/mine-chaos-1?recall=5"),
        ("kafka://u:p@h", "kafka://u:p@h/agent-task-mq-chaos-1"),
        ("amqp://h/v?topic=t&stream=yes", "amqp://h/v?stream=yes&topic=t-chaos-1"),
    ],
)
def test_a_sink_on_a_server(url: str, own: str, tmp_path: Path) -> None:
    scratch = space_of("sqlite:////tmp/b.db", url, tmp_path).sink
    assert scratch.url == own
    assert scratch.detour is not None


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("rediss://h", "TLS"),
        ("amqps://h", "TLS"),
        ("unix:///tmp/s", "socket file"),
        ("redis+sentinel://h/n", "Sentinels"),
    ],
)
def test_what_cannot_be_cut_says_why(url: str, why: str, tmp_path: Path) -> None:
    scratch = space_of(url, SQLITE, tmp_path).broker
    assert (scratch.detour, scratch.lock) == (None, None)
    assert why in scratch.uncut


def test_parameters_and_servers_of_urls() -> None:
    assert with_parameters("unix:///a?db=1&prefix=x", prefix="y") == "unix:///a?db=1&prefix=y"
    assert with_server("amqp://u:p@h:1/v?a=b", "::1", 2) == "amqp://u:p@[::1]:2/v?a=b"


def test_a_scheme_without_scratch_spaces_is_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agentpipe.connections import plugins

    monkeypatch.setattr(plugins, "load_for_url", lambda *_: object)
    with pytest.raises(ConfigError, match="this broker gives no space of its own: toy://u:"):
        Space.of(Settings("toy://u:secret@h", SQLITE), "chaos-1", tmp_path)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(f"sqlite:///{tmp_path}/b.db", f"sqlite:///{tmp_path}/r.db")


def test_a_space_is_gone_after_its_block(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "b-chaos.db").touch()
    with new_space(settings, tmp_path / "home") as space:
        (tmp_path / f"b-{space.name}.db").touch()
        (tmp_path / f"b-{space.name}.db-wal").touch()
        (tmp_path / f"r-{space.name}.db").touch()
    assert sorted(it.name for it in tmp_path.iterdir()) == ["b-chaos.db"]


def test_it_is_gone_after_an_interrupt(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), new_space(settings, tmp_path / "home"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def left_behind(settings: Settings, home: Path, name: str = "chaos-dead") -> Path:
    folder = home / name
    folder.mkdir(parents=True)
    note = {"broker": settings.broker, "sink": settings.sink}
    (folder / NOTE).write_bytes(orjson.dumps(note))
    return folder


def test_what_a_killed_trial_left_is_removed(settings: Settings, tmp_path: Path) -> None:
    home = tmp_path / "home"
    left_behind(settings, home)
    (tmp_path / "r-chaos-dead.db").touch()
    said: list[str] = []
    assert remove_left(settings, said.append, home) == ["chaos-dead"]
    assert list(tmp_path.iterdir()) == []
    assert said == []


def test_what_is_in_use_or_elsewhere_stays(settings: Settings, tmp_path: Path) -> None:
    home = tmp_path / "home"
    living = left_behind(settings, home, "chaos-alive")
    left_behind(Settings(f"sqlite:///{tmp_path}/x.db", settings.sink), home)
    file = os.open(living / LOCK, os.O_RDWR | os.O_CREAT)
    fcntl.flock(file, fcntl.LOCK_EX)
    said: list[str] = []
    assert remove_left(settings, said.append, home) == []
    os.close(file)
    assert "chaos-alive is in use" in said[0]
    assert "x.db" in said[1]
    assert "--clean" in said[1]
    assert sorted(it.name for it in home.iterdir()) == ["chaos-alive", "chaos-dead"]
