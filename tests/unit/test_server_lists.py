"""A list of MCP servers holds credentials: errors about it name a line and show no value."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from agentpipe.config.mcp_servers import read_list
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

NUMBER = "12345678901234567890123"


@pytest.mark.parametrize("number", [NUMBER, f"-{NUMBER}", NUMBER * 100])
@pytest.mark.parametrize("start", ['{"a": {', '{"mcpServers": {"a": {'])
def test_a_number_beyond_64_bits_is_refused_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str, number: str
) -> None:
    text = f'{start}"command": "x",\n"env": {{\n"TOKEN": {number}}}' + "}" * start.count("{")
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, monkeypatch, text)
    assert str(refused.value) == (
        "servers.json:3: AGENTPIPE_MCP_SERVERS: not taken: a number has more than 64 bits: "
        "write it as a string"
    )


@pytest.mark.parametrize("half", [r"\ud800", r"\uDFFF", r"\ud83d\ud83d\ude00", r"\\\ud800"])
@pytest.mark.parametrize("place", ['"TOKEN": "secret{}"', '"secret{}": "TOKEN"'])
def test_half_a_character_is_refused_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, half: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, monkeypatch, '{"a": {"env": {\n' + place.format(half) + "}}}")
    (said,) = refused.value.lines
    assert re.fullmatch(
        r"servers.json:2: AGENTPIPE_MCP_SERVERS: not JSON: a lone surrogate, half a character: "
        r"write the whole character \(column \d+\)",
        said,
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [(r"\ud83d\ude00", "\U0001f600"), (r"\\ud800", r"\ud800"), (r"\u00e9\n", "\u00e9\n")],
)
def test_whole_characters_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, value: str
) -> None:
    listed = read(tmp_path, monkeypatch, f'{{"a": {{"env": {{"TOKEN": "{text}"}}}}}}')
    assert listed["a"]["env"] == {"TOKEN": value}


def read(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> dict[str, dict[str, object]]:
    """Read a list in the current folder by its whole path."""
    monkeypatch.chdir(folder)
    path = folder / "servers.json"
    path.write_text(text)
    return read_list(path)
