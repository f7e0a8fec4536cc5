"""Brokers, sinks and engines are found by entry point, third-party ones like ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers import open_store
from agentpipe.brokers.sqlite import SqliteStore
from agentpipe.connections import plugins
from agentpipe.connections.url import is_cut_in_user
from agentpipe.engines.python import PythonEngine
from agentpipe.errors import ConfigError
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from agentpipe.sinks.sqlite import SqliteSink

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third-party distribution, as if installed."""
    info = tmp_path / "somebodys-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[agentpipe.sinks]\nsomebodys = somebodys_sink:open_it\n"
        "moved = somebodys_sink:gone\nabsent = somebodys_absent:x\n"
    )
    (tmp_path / "somebodys_sink.py").write_text("def open_it(url):\n    return ['sink', url]\n")
    monkeypatch.syspath_prepend(str(tmp_path))


def test_ours_are_entry_points_too() -> None:
    assert plugins.load("agentpipe.brokers", "sqlite") is SqliteStore
    assert plugins.load("agentpipe.sinks", "sqlite") is SqliteSink
    assert plugins.load("agentpipe.engines", "python") is PythonEngine


def test_a_url_chooses_store_and_sink(tmp_path: Path) -> None:
    settings = Settings(
        broker=f"sqlite:///{tmp_path / 'a.db'}", sink=f"sqlite:///{tmp_path / 'b.db'}"
    )
    store, sink = open_store(settings), open_sink(settings)
    assert isinstance(store, SqliteStore)
    assert isinstance(sink, SqliteSink)
    store.close()
    sink.close()


@pytest.mark.usefixtures("third_party")
def test_a_third_partys_is_found_by_its_scheme() -> None:
    opened: object = open_sink(Settings(sink="somebodys://host/x"))
    assert opened == ["sink", "somebodys://host/x"]


@pytest.mark.usefixtures("third_party")
@pytest.mark.parametrize("name", ["moved", "absent"])
def test_a_broken_entry_point_is_a_config_error(name: str) -> None:
    with pytest.raises(ConfigError, match=f"sink '{name}' cannot be imported: "):
        open_sink(Settings(sink=f"{name}://host"))


def test_an_unknown_name_is_told_the_nearest_or_all() -> None:
    with pytest.raises(
        ConfigError, match=r"no engine 'pyhton' is installed: did you mean 'python'"
    ):
        plugins.load("agentpipe.engines", "pyhton")
    with pytest.raises(
        ConfigError, match=r"no broker 'carrier' is installed: choose from .*sqlite"
    ):
        plugins.load_for_url("agentpipe.brokers", "carrier://pigeon")


@pytest.mark.parametrize(
    "url", ["", "broker.db", "/tmp/broker.db", "user:canary@host", "redis://[::1"]
)
def test_what_is_no_url_is_told_how_one_looks(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plugins.load_for_url("agentpipe.brokers", url)
    assert "sqlite" in str(caught.value)


def test_no_password_is_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        plugins.load_for_url("agentpipe.brokers", "//user:canary@host")
    assert "canary" not in str(caught.value)


SERVERS = ["redis", "redis+sentinel", "amqp", "amqps", "kafka"]


@pytest.mark.parametrize("scheme", SERVERS)
@pytest.mark.parametrize(
    "user", ["user:geheim/nis", "user:geheim?nis", ":geheim/", "u:9geheim,x/y", "user:/geheim"]
)
def test_no_error_shows_a_password_with_a_slash_or_a_question_mark(scheme: str, user: str) -> None:
    url = f"{scheme}://{user}@host:1/x?topic=t"
    opens = open_sink if scheme == "kafka" else open_store
    with pytest.raises(ConfigError, match=r"write %2F for '/' and %3F for '\?'") as caught:
        opens(Settings(broker=url, sink=url))
    assert "geheim" not in str(caught.value)
    assert "nis" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["redis", "kafka"])
@pytest.mark.parametrize("user", ["user:12/geheim", "user:12?geheim", "us/er:geheim"])
def test_no_error_shows_a_password_after_what_reads_like_a_server(scheme: str, user: str) -> None:
    url = f"{scheme}://{user}@host:1/x"
    opens = open_sink if scheme == "kafka" else open_store
    with pytest.raises(ConfigError, match="write %2F for '/'") as caught:
        opens(Settings(broker=url, sink=url))
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:geheim@host:1/0?prefix=a@b",
        "redis://host:1/0?prefix=a@b",
        "redis://host:1?prefix=a@b",
        "redis://[::1]/0?prefix=a@b",
        "redis+sentinel://one:1,two/name?prefix=a@b",
        "amqp://host/a@b",
        "unix:///run/a@b:c/redis.sock",
        "sqlite:///a:b@c.db",
        "amqp://host:5672/?management=http://user:word@host:15672",
    ],
)
def test_an_at_sign_elsewhere_is_no_password(url: str) -> None:
    assert not is_cut_in_user(url)
