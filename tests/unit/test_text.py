"""Nothing that an agent answers can steer the terminal of whoever reads it."""

from __future__ import annotations

import random
import re

import pytest

from agentpipe.cli.common import print_text, say
from agentpipe.cli.tail import _line
from agentpipe.core.outside import valid_text
from agentpipe.core.result import Result
from agentpipe.core.text import one_line, printable


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


def test_one_line_is_short_and_harmless() -> None:
    assert one_line("a\nb\t c\r\n  d", 40) == "a b c d"
    assert one_line("x" * 100, 10) == "x" * 9 + "…"
    assert one_line("\x1b[2Jgone", 40) == "\\x1b[2Jgone"
    assert one_line("x" * 10, 10) == "x" * 10
    assert len(one_line("\x1b" * 1000, 20)) == 20


def test_what_is_printed_is_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    print_text("\x1b[31mdata")
    say("\x1b[31mwords")
    assert capsys.readouterr() == ("\\x1b[31mdata\n", "\\x1b[31mwords\n")


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


def test_halves_of_surrogate_pairs_are_joined_or_replaced() -> None:
    rng = random.Random(0)
    for _ in range(2_000):
        text = "".join(rng.choices("a\0é漢😀\ud83d\udbff\ude00\udfff", k=rng.randrange(9)))
        joined = re.sub("[\ud800-\udbff][\udc00-\udfff]", _joined, text)
        assert valid_text(text) == re.sub("[\ud800-\udfff]", "\ufffd", joined)


def _joined(pair: re.Match[str]) -> str:
    return pair[0].encode("utf-16", "surrogatepass").decode("utf-16")
