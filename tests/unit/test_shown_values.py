"""No context value is in a command line, which every user of the machine can read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.config.hide_password import split
from agentpipe.config.mcp_servers import BUILT_IN, VARIABLE, load_catalogue
from agentpipe.config.mcp_universe_servers import added_servers, server_faults
from agentpipe.core.template import names_in
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

CANARY = "kanarie"
ADDRESS = f"postgresql://me:{CANARY}%40%2F@db.example:5433/shop?sslmode=require"
# A program that prints its command line and environment.
TELLS = """#!/bin/sh
tr '\\0' ' ' < /proc/$$/cmdline; echo; env
"""


@pytest.mark.parametrize(
    "entry",
    [
        {"command": "x", "args": ["--token", "{{API_TOKEN}}"]},
        {"command": "x", "args": ["--header=Bearer {{ VALUE }}"]},
        {"command": "x", "args": ["{{POSTGRES_ADDRESS}}"]},
        {"command": "x", "args": ["{{KEYHOST1}}"]},
        {"command": "{{PROGRAM}}", "args": []},
        {"command": "sh", "args": ["-c", "x {{A_DIR}} {{PASSWORD}}"]},
    ],
)
def test_a_context_value_in_a_command_line_is_refused(entry: dict[str, Any]) -> None:
    catalogue = load_catalogue(None)
    (problem,) = catalogue.problems([{"name": "own", **entry}])
    assert problem.startswith("servers[0]: the MCP server 'own' shows ")
    assert "in its command line, which every user" in problem
    with pytest.raises(ConfigError, match="write `env: "):
        catalogue.server({"name": "own", **entry}, {})


def test_a_place_may_stand_there_unless_it_has_a_password() -> None:
    entry = {"name": "own", "command": "x", "args": ["{{DATA_DIR}}", "{{PORT}}", "{{DB_PATH}}"]}
    env = {"DATA_DIR": "/srv", "PORT": "8080", "DB_PATH": "/x"}
    catalogue = load_catalogue(None)
    assert catalogue.server(entry, env).command == ("x", "/srv", "8080", "/x")
    with pytest.raises(ConfigError, match="shows DB_PATH") as refused:
        catalogue.server(entry, {**env, "DB_PATH": ADDRESS})
    assert CANARY not in str(refused.value)


def test_a_list_of_the_users_is_named_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = {"command": "npx", "args": ["-y", "@x/postgres", "{{POSTGRES_ADDRESS}}"]}
    listed = tmp_path / "servers.json"
    listed.write_text(json.dumps({"other": {"stdio": start}, "mine": {"stdio": start}}, indent=1))
    lines = listed.read_text().splitlines()
    line = max(n for n, text in enumerate(lines, 1) if "POSTGRES_ADDRESS" in text)
    catalogue = load_catalogue(str(listed))  # A server that no agent uses is not a mistake.
    (problem,) = catalogue.problems([{"name": "mine"}])
    assert f"({listed}:{line})" in problem
    monkeypatch.setenv(VARIABLE, str(listed))
    (fault,) = server_faults([{"name": "mine"}])
    assert f"({listed}:{line})" in fault[1]


def test_no_server_of_ours_has_more_than_a_place_in_its_command_line() -> None:
    catalogue = load_catalogue(None)
    assert list(catalogue.problems([{"name": name} for name in BUILT_IN])) == []
    names = {n for entry in BUILT_IN.values() for n in names_in(entry.get("stdio", {}).get("args"))}
    assert names == {"FILESYSTEM_DIRECTORY", "FILESYSTEM_TEST_DIR"}


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_no_server_of_ours_shows_a_credential(name: str, tmp_path: Path) -> None:
    """Started as its entry says, with a stub in place of npx, uvx and docker."""
    for program in ("npx", "uvx", "docker", "python"):
        (tmp_path / program).write_text(TELLS)
        (tmp_path / program).chmod(0o755)
    wanted = set(names_in(BUILT_IN[name]))
    env = {each: ADDRESS if "ADDRESS" in each else CANARY for each in wanted}
    env |= {each: str(tmp_path) for each in wanted if each.startswith("FILESYSTEM")}
    server = load_catalogue(None).server({"name": name}, env)
    command = [*server.command]
    if command[:2] == [sys.executable, "-m"]:
        command[0] = str(tmp_path / "python")
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        command, env={**server.env, "PATH": path}, capture_output=True, text=True, check=True
    )
    shown, _, environ = done.stdout.partition("\n")
    assert CANARY not in " ".join([*server.command, shown])
    assert all(CANARY in environ for value in server.env.values() if CANARY in value)


def test_postgres_gets_its_address_and_finds_its_password(tmp_path: Path) -> None:
    (tmp_path / "npx").write_text(TELLS)
    (tmp_path / "npx").chmod(0o755)
    server = load_catalogue(None).server({"name": "postgres"}, {"POSTGRES_ADDRESS": ADDRESS})
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        server.command, env={**server.env, "PATH": path}, capture_output=True, text=True, check=True
    )
    shown, _, environ = done.stdout.partition("\n")
    assert shown.rstrip().endswith(" postgresql://me@db.example:5433/shop?sslmode=require")
    assert f"PGPASSWORD={CANARY}@/\n" in environ
    assert "POSTGRES_ADDRESS" not in environ


def test_an_address_that_is_no_url_is_refused_without_being_shown() -> None:
    server = load_catalogue(None).server(
        {"name": "postgres"}, {"POSTGRES_ADDRESS": f"host=db password={CANARY}"}
    )
    done = subprocess.run(
        server.command, env=server.env, capture_output=True, text=True, check=False
    )
    assert done.returncode == os.EX_CONFIG
    assert done.stderr == "POSTGRES_ADDRESS: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE\n"


def test_mcp_universes_own_code_gets_our_postgres() -> None:
    added = added_servers()
    assert added["postgres"] == BUILT_IN["postgres"]
    assert added["postgres-pro"] == BUILT_IN["postgres-pro"]


@pytest.mark.parametrize(
    ("url", "shown", "password"),
    [
        ("postgres://h/d", "postgres://h/d", ""),
        ("postgres://u@h/d", "postgres://u@h/d", ""),
        ("postgres://u:p@h/d", "postgres://u@h/d", "p"),
        ("postgres://u:@h/d", "postgres://u@h/d", ""),
        ("postgres://:p@h/d", "postgres://@h/d", "p"),
        ("postgres://u:p@q/r@h/d", "postgres://u@h/d", "p@q/r"),
        ("postgres://u:a%20b@[::1]:5/d", "postgres://u@[::1]:5/d", "a b"),
        ("postgres://u@h/d?password=p&x=1", "postgres://u@h/d?x=1", "p"),
        ("postgres://u@h/d?x=1&password=p", "postgres://u@h/d?x=1", "p"),
        ("postgres://u@h/d?password=p", "postgres://u@h/d", "p"),
    ],
)
def test_a_password_is_taken_out_of_a_url(url: str, shown: str, password: str) -> None:
    assert split(url) == (shown, password)
