"""Options that a command does not have."""

from __future__ import annotations

import pytest

from agentpipe.cli import main


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["send", "toys", "q", "--brokr", "x"], "unknown option --brokr: did you mean --broker?"),
        (["tail", "--limt=3"], "unknown option --limt: did you mean --limit?"),
        (["tail", "--zzz"], "unrecognized arguments: --zzz"),
    ],
)
def test_the_nearest_one_is_named(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"{said}\n")
