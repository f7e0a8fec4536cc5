"""The rows that a bench keeps, and the document built from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import document, recording, scale
from bench.figures import show_rounds
from bench.groups_of_figures import GROUPS
from bench.recording import attempt, note, recorded


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(recording, "FOLDER", tmp_path / "recorded")
    monkeypatch.setattr(recording, "machine", lambda: {"processors": "2"})
    monkeypatch.setattr(recording, "versions", lambda: {"Redis": "7"})
    monkeypatch.setattr(scale, "DOCUMENT", tmp_path / "scale.md")
    monkeypatch.setattr(document, "DOCUMENT", tmp_path / "benchmarks.md")
    return tmp_path


def broken(reason: str) -> None:
    raise OSError(reason)


def record_some() -> None:
    with recording.recording("redis"):
        attempt("a figure", note, recording.Row("a figure", "5/s", "a|b"))
        attempt("another", broken, "no\nserver")
        attempt("in turns", show_rounds, "in turns", [2.0, 4.0, 6.0], [2.0, 2.0, 2.0], "theirs,")


def test_one_failed_row_does_not_lose_the_others() -> None:
    record_some()
    group = recorded("redis")
    assert group is not None
    assert [(row.label, row.value) for row in group.rows] == [
        ("a figure", "5/s"),
        ("another", "failed"),
        ("in turns", "4/s"),
    ]
    assert group.rows[1].beside == "OSError: no server"
    assert group.command == "python -m bench.bench redis"


def test_a_row_is_kept_before_the_next_is_measured() -> None:
    with recording.recording("redis"):
        note(recording.Row("a figure", "5/s"))
        group = recorded("redis")
        assert group is not None
        assert [row.label for row in group.rows] == ["a figure"]


def test_a_figure_that_hangs_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "FIGURE_LIMIT_S", 1)

    def hang() -> None:
        while True:
            pass

    with recording.recording("redis"):
        attempt("a figure", hang)
    group = recorded("redis")
    assert group is not None
    assert (group.rows[0].value, group.rows[0].beside) == ("failed", "TimeoutError: more than 1 s")


def test_the_document_has_each_row_with_its_ratios(scratch: Path) -> None:
    record_some()
    document.write()
    text = (scratch / "benchmarks.md").read_text()
    assert "- processors: 2\n" in text
    assert "- Redis: 7\n" in text
    assert f"## {GROUPS['redis'].title}\n" in text
    assert "| a figure | 5/s |  |  |  | a\\|b |" in text
    assert "| another | failed |  |  |  | OSError: no server |" in text
    assert "| in turns | 4/s | 2.00 | 1.00 | 3.00 | theirs, 2/s |" in text


def test_a_run_of_one_group_leaves_the_others_rows() -> None:
    record_some()
    with recording.recording("kafka"):
        note(recording.Row("records", "1/s"))
    document.write()
    text = document.DOCUMENT.read_text()
    assert text.index("in turns") < text.index("records")


def test_every_group_has_a_module() -> None:
    bench = Path(recording.__file__).parent
    for group in GROUPS.values():
        text = (bench / f"{group.module.removeprefix('bench.')}.py").read_text()
        assert "\ndef measure(" in text


def test_the_document_of_scale_works_out_what_a_broker_carries(scratch: Path) -> None:
    costs = {name: [(50.0, 5.0), (100.0, 20.0)] for name in scale.OF_A_TASK}
    table = scale.Table("waiting", [1_000, 1_000_000], costs)
    scale.keep(scale.Growth("redis", 1.5, "100 agents", {"processors": "2"}, [table]))
    scale.write()
    text = (scratch / "scale.md").read_text().replace("\n  ", " ")
    # Five operations of 100 us; 10,000 runs of 60 s need 167 tasks a second.
    assert "one Redis: 500 us a task with 1,000,000 waiting, at most 2,000 tasks/s" in text
    assert "167 tasks/s: 8% of it" in text
    assert "| claim | 50 (5) | 100 (20) | 2.00 (4.00) |" in text
