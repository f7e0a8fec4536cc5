"""Settings come from the given environment; all mistakes are reported at once, never passwords."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentpipe.connections.sqlite_address import parse_url
from agentpipe.core.redaction import without_password
from agentpipe.errors import ConfigError
from agentpipe.settings import Settings, embedded_url, misspelt_variables


def test_nothing_set_means_the_embedded_store_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.from_env({})
    assert settings.broker == f"sqlite:///{tmp_path}/.agentpipe/broker.db"
    assert settings.sink == f"sqlite:///{tmp_path}/.agentpipe/results.db"
    assert settings.collection_file is None


def test_the_defaults_are_the_contracts() -> None:
    settings = Settings.from_env({})
    assert (settings.lease_s, settings.grace_s) == (30, 30)
    assert settings.outbox_high_water == 10_000
    assert settings.outbox_high_water_bytes == 256 * 1024 * 1024
    assert (settings.log_level, settings.log_format) == ("INFO", "text")


def test_every_variable_is_read() -> None:
    settings = Settings.from_env(
        {
            "AGENTPIPE_BROKER": "sqlite:///a.db",
            "AGENTPIPE_SINK": "sqlite:///b.db",
            "AGENT_COLLECTION_CONFIG_FILE": "crew.yaml",
            "AGENTPIPE_LEASE_S": "1.5",
            "AGENTPIPE_GRACE_S": "0",
            "AGENTPIPE_OUTBOX_HIGH_WATER": "7",
            "AGENTPIPE_OUTBOX_HIGH_WATER_BYTES": "8",
            "AGENTPIPE_RETENTION_S": "9",
            "AGENTPIPE_RETRY_DELAY_S": "0.1",
            "AGENTPIPE_SLOTS": "10",
            "AGENTPIPE_LOG_LEVEL": "debug",
            "AGENTPIPE_LOG_FORMAT": "JSON",
            "AGENTPIPE_SUPERVISOR_PID": "11",
            "AGENTPIPE_DRAIN_BEFORE": "12",
            "AGENTPIPE_LAST_WORD_FILE": "/proc/11/fd/3",
            "AGENTPIPE_HEARTBEAT_FILE": "/tmp/beat",
        }
    )
    assert settings == Settings(
        broker="sqlite:///a.db",
        sink="sqlite:///b.db",
        collection_file=Path("crew.yaml"),
        lease_s=1.5,
        grace_s=0,
        outbox_high_water=7,
        outbox_high_water_bytes=8,
        retention_s=9,
        retry_delay_s=0.1,
        slots=10,
        log_level="DEBUG",
        log_format="json",
        supervisor_pid=11,
        drain_before=12,
        last_word_file="/proc/11/fd/3",
        heartbeat_file="/tmp/beat",
    )


def test_the_processs_own_environment_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTPIPE_LEASE_S", "99")
    assert Settings.from_env({}).lease_s == 30


def test_an_empty_value_counts_as_unset() -> None:
    assert Settings.from_env({"AGENTPIPE_LEASE_S": "", "AGENTPIPE_BROKER": ""}) == Settings()


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_env(
            {
                "AGENTPIPE_LEASE_S": "soon",
                "AGENTPIPE_SLOTS": "1.5",
                "AGENTPIPE_LOG_LEVEL": "loud",
                "AGENTPIPE_GRACE_S": "-1",
            }
        )
    assert [str(problem) for problem in caught.value.problems] == [
        "AGENTPIPE_LEASE_S: expected seconds, at least 0.5; got 'soon'",
        "AGENTPIPE_GRACE_S: expected seconds, at least 0; got '-1'",
        "AGENTPIPE_SLOTS: expected a number of runs, at least 1; got '1.5'",
        "AGENTPIPE_LOG_LEVEL: expected one of DEBUG, INFO, WARNING, ERROR; got 'loud'",
    ]


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "0.4"])
def test_a_lease_is_a_finite_time(value: str) -> None:
    with pytest.raises(ConfigError, match="AGENTPIPE_LEASE_S"):
        Settings.from_env({"AGENTPIPE_LEASE_S": value})


def test_broker_and_sink_are_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="broker and sink are one file"):
        Settings(broker="sqlite:///a.db", sink=f"sqlite:///{tmp_path}/a.db?synchronous=normal")
    assert Settings(broker="sqlite:///a.db", sink="sqlite:///b.db").sink == "sqlite:///b.db"


def test_an_embedded_url_takes_a_folder_that_is_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9 %41#")
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert parse_url(embedded_url("x.db")).path == folder / ".agentpipe" / "x.db"


def test_an_embedded_url_escapes_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a folder?with #marks"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert embedded_url("x.db").endswith("/a%20folder%3Fwith%20%23marks/.agentpipe/x.db")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("redis://user@h:6379/0", "redis://user@h:6379/0"),
        ("redis://:canary@h:6379/0", "redis://:***@h:6379/0"),
        ("amqps://user:canary@h:5671/v", "amqps://user:***@h:5671/v"),
        ("redis://user:can@ary@h:6379/0", "redis://user:***@h:6379/0"),
        (
            "amqp://a:canary@h/v?management=http://b:can@ary@i:1",
            "amqp://a:***@h/v?management=http://b:***@i:1",
        ),
        (
            "amqp://h:5672/v?management=https://b:canary@i:1",
            "amqp://h:5672/v?management=https://b:***@i:1",
        ),
        (
            "amqp://a:canary@h/v?management=http%3A%2F%2Fb%3Acanary%40i",
            "amqp://a:***@h/v?management=***",
        ),
        (
            "amqp://a:canary@h/v?management=http://b:canary%40@i",
            "amqp://a:***@h/v?management=***",
        ),
        ("redis://user:can/ary@h:6379/0", "redis://user:***@h:6379/0"),
        ("amqp://us/er:canary@h/v", "amqp://us/er:***@h/v"),
        ("unix:///run/a@b:c/redis.sock", "unix:///run/a@b:c/redis.sock"),
        ("sqlite:////tmp/a:b@c.db", "sqlite:////tmp/a:b@c.db"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("BROKR", "BROKER"),
        ("SINKS", "SINK"),
        ("LEASE", "LEASE_S"),
        ("SLOT", "SLOTS"),
        ("MAX_QUEUE", "MAX_QUEUE_SIZE"),
    ],
)
def test_a_misspelt_variable_is_told_with_the_nearest_setting(given: str, meant: str) -> None:
    environ = {f"AGENTPIPE_{given}": "amqp://u:secret@h", "AGENTPIPE_GRACE_S": "3"}
    assert misspelt_variables(environ) == [
        f"AGENTPIPE_{given} is not a setting: did you mean AGENTPIPE_{meant}?"
    ]


@pytest.mark.parametrize("prefix", ["AGENTPIPE_", "AGENTPIPE_AGENT_"])
def test_a_setting_without_the_prefix_is_meant_without_it(prefix: str) -> None:
    given = f"{prefix}COLLECTION_CONFIG_FILE"
    assert misspelt_variables({given: "x.yaml"}) == [
        f"{given} is not a setting: did you mean AGENT_COLLECTION_CONFIG_FILE?"
    ]


def test_neither_settings_nor_other_variables_are_told_as_misspelt() -> None:
    own = ("API_KEY", "MCP_SERVERS", "MCPUNIVERSE_PYTHON", "DUMPABLE", "RUN", "HANDOVER", "HOME")
    environ = {f"AGENTPIPE_{name}": "1" for name in (*own, "BROKER", "SLOTS")} | {"BROKR": "1"}
    assert misspelt_variables(environ) == []
