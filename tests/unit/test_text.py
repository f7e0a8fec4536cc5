"""Nothing that an agent answers can control the terminal of its reader."""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path

import orjson
import pytest

import agentpipe
from agentpipe import cli
from agentpipe.cli import status
from agentpipe.cli.guard import guarded_output
from agentpipe.cli.output import print_json, print_text, say
from agentpipe.cli.tail import _line
from agentpipe.core.outside import valid_text
from agentpipe.core.result import Result
from agentpipe.core.text import one_line, printable, printable_json
from agentpipe.errors import StoreError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text", "plain text"),
        ("two\nlines", "two\nlines"),
        ("Zoë ☃ \U0001f600 日本", "Zoë ☃ \U0001f600 日本"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("over\rwritten", "over\\rwritten"),
        ("bell\a back\b tab\t nul\0", "bell\\x07 back\\x08 tab\\t nul\\x00"),
        ("\x7f\x9b31m", "\\x7f\\x9b31m"),
        ("\u202eright to left", "\\u202eright to left"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("\ud800", "\\ud800"),
        ("[red]markup[/red] [link=x]", "[red]markup[/red] [link=x]"),
    ],
)
def test_control_characters_are_shown_as_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("keep", "shown"), [("", "a\\nb\\tc"), ("\n", "a\nb\\tc"), ("\n\t", "a\nb\tc")]
)
def test_what_is_kept_is_the_callers_choice(keep: str, shown: str) -> None:
    assert printable("a\nb\tc", keep) == shown


@pytest.mark.parametrize(
    "numbers",
    [
        range(0x20000),
        pytest.param(range(0x20000, 0xE0000), marks=pytest.mark.long),
        range(0xE0000, 0xE1000),
        pytest.param(range(0xE1000, 0x110000), marks=pytest.mark.long),
    ],
    ids="{0.start:x}".format,
)
def test_no_character_that_is_invisible_passes(numbers: range) -> None:
    everything = "".join(map(chr, numbers))
    assert printable(everything, keep="").isprintable()
    encodable = valid_text(everything)
    data = printable_json(orjson.dumps({"x": encodable}))
    assert data.decode().isprintable()
    assert orjson.loads(data) == {"x": encodable}


def test_json_that_is_visible_stays_as_it_is() -> None:
    data = orjson.dumps({"Zoë ☃": ["\U0001f600", "日本", 1.5, None]})
    assert printable_json(data) == data


def test_one_line_is_short_and_harmless() -> None:
    assert one_line("a\nb\t c\r\n  d", 40) == "a b c d"
    assert one_line("x" * 100, 10) == "x" * 9 + "…"
    assert one_line("\x1b[2Jgone", 40) == "\\x1b[2Jgone"
    assert one_line("x" * 10, 10) == "x" * 10
    assert len(one_line("\x1b" * 1000, 20)) == 20


def test_what_is_printed_is_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    print_text("\x1b[31mdata", "two\nlines")
    say("\x1b[31mwords", "two\nlines")
    print_json("\x1b\x9b\x7f\u202e")
    printed = capsys.readouterr()
    assert printed.out == '\\x1b[31mdata\ntwo\\nlines\n"\\u001b\\u009b\\u007f\\u202e"\n'
    assert printed.err == "\\x1b[31mwords\ntwo\\nlines\n"


# Each of them escapes its output, or writes only for a program of ours.
DOORS = {
    "actors.py",
    "cli/output.py",
    "cli/completion.py",
    "cli/progress.py",
    "config/hide_password.py",  # A server's stderr, which is treated like any other.
    "engines/process/preflight.py",
    "tui/terminal.py",
}
PRINTS = re.compile(r"(?<![.\w])print\(|\bsys\.std(?:out|err)\.(?:buffer\.)?write\(|\b_?Console\(")


def test_what_is_printed_passes_one_of_few_doors() -> None:
    package = Path(agentpipe.__file__).parent
    others = {str(path.relative_to(package)): path for path in package.rglob("*.py")}
    for door in DOORS:
        assert PRINTS.search(others.pop(door).read_text()), door
    # Runs in another Python, whose output is logged line by line.
    ours = {name: path for name, path in others.items() if "mcpuniverse/host/" not in name}
    assert [name for name, path in ours.items() if PRINTS.search(path.read_text())] == []


@pytest.mark.parametrize("kind", [RuntimeError, StoreError, OSError])
def test_an_error_of_a_command_is_harmless_be_it_a_bug(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> int:
        raise kind(HOSTILE)

    monkeypatch.setattr(status, "run", fail)
    before = sys.stdout, sys.stderr
    assert cli.main(["status"]) == 1
    assert (sys.stdout, sys.stderr) == before
    said = capsys.readouterr().err
    assert "\\x1b[2J" in said
    assert all(line.isprintable() for line in said.splitlines())
    assert ("Traceback" in said) == (kind is not StoreError)


def test_what_others_write_during_a_command_is_harmless(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with guarded_output(), guarded_output():
        sys.stdout.write(HOSTILE)
        sys.stderr.writelines([HOSTILE, "a\tb\n"])
        assert not sys.stderr.isatty()
    shown = HOSTILE.replace("\x1b", "\\x1b").replace("\r", "\\r").replace("\x07", "\\x07")
    assert capsys.readouterr() == (shown, f"{shown}a\tb\n")


HOSTILE = "\x1b[2J\r\x07[bold]"


@pytest.mark.parametrize(
    "result",
    [
        Result(task_id="t", result=HOSTILE),
        Result(task_id="t", result={"x": HOSTILE}),
        Result(task_id=HOSTILE, agent=HOSTILE, outcome=HOSTILE),
        Result(task_id="t", finished_at=HOSTILE * 9),
        Result(task_id="t", error={"type": HOSTILE, "message": HOSTILE}),
        Result(task_id="t", error={}),
        Result(task_id="t", result=["x"] * 100_000),
    ],
)
def test_a_result_of_the_stream_is_one_harmless_line(result: Result) -> None:
    line = _line(result)
    assert printable(line) == line
    assert "\n" not in line
    assert len(line) < 400


def test_a_result_without_an_answer_shows_none() -> None:
    cancelled = Result(task_id="t", agent="echo_0", outcome="cancelled")
    assert _line(cancelled) == "cancelled t echo_0"
    assert _line(Result(task_id="t", agent="echo_0", outcome="ok")).endswith(" echo_0  null")


def test_halves_of_surrogate_pairs_are_joined_or_replaced() -> None:
    rng = random.Random(0)
    for _ in range(2_000):
        text = "".join(rng.choices("a\0é漢😀\ud83d\udbff\ude00\udfff", k=rng.randrange(9)))
        joined = re.sub("[\ud800-\udbff][\udc00-\udfff]", _joined, text)
        assert valid_text(text) == re.sub("[\ud800-\udfff]", "\ufffd", joined)


def _joined(pair: re.Match[str]) -> str:
    return pair[0].encode("utf-16", "surrogatepass").decode("utf-16")
