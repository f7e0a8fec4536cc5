"""Warnings about exposure: passwords sent in plain text, and servers of unpinned versions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.redis.address import parse_url
from agentpipe.cli import main
from agentpipe.config.mcp_servers import BUILT_IN, VARIABLE
from agentpipe.operations.precautions import pinned, transport

if TYPE_CHECKING:
    from pathlib import Path

CANARY = "kanarie"


@pytest.mark.parametrize(
    ("url", "found"),
    [
        (f"redis://:{CANARY}@h:1/0", ["warn"]),
        (f"amqp://u:{CANARY}@h/v", ["warn"]),
        (f"kafka://u:{CANARY}@h:1/t?sasl=PLAIN&tls=no", ["warn"]),
        (f"redis+sentinel://u:{CANARY}@h,i/main", ["warn"]),
        (f"other://u:{CANARY}@h", ["warn"]),
        (f"rediss://:{CANARY}@h:1/0", ["ok"]),
        (f"amqps://u:{CANARY}@h/v", ["ok"]),
        (f"kafka://u:{CANARY}@h:1/t?tls=yes", ["ok"]),
        (f"kafka://u:{CANARY}@h:1/t?cafile=/x", ["ok"]),
        (f"redis+sentinel://u:{CANARY}@h,i/main?ssl_ca_certs=/x", ["ok"]),
        (f"unix://u:{CANARY}@/run/redis.sock", ["ok"]),
        ("redis://h:1/0", []),
        ("sqlite:////tmp/x.db", []),
        (f"redis://u:{CANARY}@[h/0", []),  # Opening it reports the error.
    ],
)
def test_a_password_without_tls_is_warned_of(url: str, found: list[str]) -> None:
    findings = list(transport("broker", url))
    assert [each.status for each in findings] == found
    assert CANARY not in str(findings)


@pytest.mark.parametrize(
    ("command", "args", "is_loose"),
    [
        ("npx", ["-y", "@x/server"], True),
        ("npx", ["-y", "server@latest", "--flag"], True),
        ("npx", ["-y", "@x/server@1.2.3"], False),
        ("npx", ["--package=@x/server", "run"], True),
        ("/usr/bin/uvx", ["mcp-server"], True),
        ("uvx", ["mcp-server==1.0"], False),
        ("uvx", ["--from", "mcp-server@1.0", "run"], False),
        ("uvx", ["--from", "mcp-server", "run"], True),
        ("docker", ["run", "-i", "--rm", "-e", "TOKEN", "ghcr.io/x/server"], True),
        ("docker", ["run", "-i", "ghcr.io/x/server:0.5.0"], False),
        ("docker", ["run", "-i", "ghcr.io/x/server:latest"], True),
        ("python", ["-m", "server"], False),
        ("npx", [], False),
    ],
)
def test_a_server_that_is_fetched_in_any_version_is_warned_of(
    tmp_path: Path, command: str, args: list[str], *, is_loose: bool
) -> None:
    listed = tmp_path / "servers.json"
    listed.write_text(json.dumps({"mine": {"stdio": {"command": command, "args": args}}}))
    (finding,) = pinned({VARIABLE: str(listed)})
    assert finding.status == ("warn" if is_loose else "ok")
    assert ("mine" in finding.found) is is_loose


def test_the_built_in_packages_are_pinned(tmp_path: Path) -> None:
    listed = tmp_path / "servers.json"
    images = [name for name in BUILT_IN if BUILT_IN[name]["stdio"]["command"] == "docker"]
    listed.write_text(json.dumps({n: e for n, e in BUILT_IN.items() if n not in images}))
    (finding,) = pinned({VARIABLE: str(listed)})
    assert finding.status == "ok", finding
    assert list(pinned({})) == []


@pytest.mark.parametrize("command", ["status", "doctor", "consume-outputs"])
@pytest.mark.parametrize("option", ["broker", "sink"])
def test_a_password_on_the_command_line_is_warned_of(
    option: str, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"none-such://user:{CANARY}@127.0.0.1"
    for name in ("AGENTPIPE_BROKER", "AGENTPIPE_SINK"):
        monkeypatch.setenv(name, "none-such://127.0.0.1")
    main([command, f"--{option}", url])
    said = capsys.readouterr()
    expected = f"--{option} shows its password in the process list: set AGENTPIPE_{option.upper()}"
    assert expected in said.err
    assert CANARY not in said.err + said.out


@pytest.mark.parametrize("command", ["status", "doctor", "consume-outputs", "runs"])
def test_a_misspelt_setting_is_warned_of_once(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AGENTPIPE_BROKER", "AGENTPIPE_SINK"):
        monkeypatch.setenv(name, "none-such://127.0.0.1")
    monkeypatch.setenv("AGENTPIPE_LEASES", "5")
    main([command])
    assert capsys.readouterr().err.count("AGENTPIPE_LEASES is not a setting: did you mean") == 1


@pytest.mark.parametrize(
    ("query", "tls"),
    [
        ("", None),
        ("?tls=no", None),
        ("?tls=yes", {}),
        ("?ssl_cert_reqs=none", {"ssl_cert_reqs": "none"}),
        ("?tls=yes&ssl_ca_certs=/ca&db=2", {"ssl_ca_certs": "/ca"}),
    ],
)
def test_sentinels_are_reached_by_tls_where_the_url_says_so(query: str, tls: Any) -> None:
    assert parse_url(f"redis+sentinel://one,two/main{query}").tls == tls
