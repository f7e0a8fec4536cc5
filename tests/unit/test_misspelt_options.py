"""Options and commands that do not exist, and values of the wrong kind."""

from __future__ import annotations

import pytest

from agentpipe.cli import main


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["send", "toys", "q", "--brokr", "x"], "unknown option --brokr: did you mean --broker?"),
        (["tail", "--limt=3"], "unknown option --limt: did you mean --limit?"),
        (["tail", "--zzz"], "unrecognized arguments: --zzz"),
        (["tial"], "unknown command 'tial': did you mean 'tail'?"),
        (["tail", "--limit", "few"], "--limit: expected an integer, got 'few'"),
    ],
)
def test_the_error_says_what_is_wrong_and_what_is_near(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"{said}\n")


@pytest.mark.parametrize(
    ("argv", "command"),
    [(["tail", "--zzz"], "tail"), (["dead", "list", "--zzz", "x"], "dead list"), (["tial"], "")],
)
def test_the_error_names_the_help_of_the_command(
    argv: list[str], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(argv)
    assert f"See: agentpipe {command} --help".replace("  ", " ") in capsys.readouterr().err
