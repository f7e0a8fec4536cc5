from __future__ import annotations

import sys
from pathlib import Path

import pytest

from agentpipe.config import definitions
from agentpipe.config.definitions import has_source, problem_of_function
from agentpipe.config.task_rules import TaskRules
from agentpipe.core.task import Task
from agentpipe.errors import ConfigError, TaskError
from agentpipe.sending.admission import admit
from agentpipe.sending.checked_tasks import check_file, checked_tasks
from tests.support import wait_until

GIVEN = ("value", "op_args", "task")


def problem(folder: Path, source: str, name: str = "f") -> str:
    (folder / "judge.py").write_text(source)
    return problem_of_function(f"judge:{name}", [folder], GIVEN)


@pytest.mark.parametrize(
    "source",
    [
        "def f(answer): return True",
        "async def f(answer, task): return True",
        "class f:\n    def __init__(self, answer): ...",
        "f = print",
        "f, g = 1, 2",
        "f: object = print",
        "(f := print)",
        "from json import loads as f",
        "import f",
        "import f.g",
        "if True:\n    def f(answer): ...\nelse:\n    f = None",
        "try:\n    from x import f\nexcept ImportError:\n    f = None",
        "with open('x') as f: pass",
        "for f in (print,): pass",
        "def make():\n    global f\n    f = print\nmake()",
        "globals()['f'] = print",
        "vars().update(f=print)",
        "exec('f = print')",
        "import sys\nsetattr(sys.modules[__name__], 'f', print)",
        "from x import *",
        "def __getattr__(name): return print",
        "import functools\n@functools.cache\ndef f(): ...",
        "def f(*answers, task): ...",
        "def f(answer, value=1, *, op_args, other=2, **rest): ...",
        "def f(answer, value, op_args, task): ...",
        "def f(answer=''): ...",
        "match print:\n    case f: pass",
    ],
)
def test_a_function_that_may_be_there_passes(tmp_path: Path, source: str) -> None:
    assert problem(tmp_path, source) == ""


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def fun(answer): ...", "has no 'f'"),
        ("def outer():\n    def f(answer): ...", "has no 'f'"),
        ("class C:\n    def f(self, answer): ...", "has no 'f'"),
        ("f: object", "has no 'f'"),
        ("[f for f in (1,)]\nlambda f: f", "has no 'f'"),
        ("x = vars(object)\nx.f = 1", "has no 'f'"),
        ("f = 'text'", "is not a function"),
        ("f: dict = {}", "is not a function"),
        ("def f(): ...", "no parameter for the answer"),
        ("def f(*, answer): ...", "no parameter for the answer"),
        ("def f(answer, model): ...", "requires 'model'"),
        ("def f(answer, *, model): ...", "requires 'model'"),
        ("def f(answer, value, /): ...", "requires 'value'"),
        ("def f(:", "judge.py:1: not Python"),
        ("f = '\0'", "not Python"),
    ],
)
def test_a_function_that_cannot_be_called_is_found(
    tmp_path: Path, source: str, expected: str
) -> None:
    found = problem(tmp_path, source)
    assert expected in found
    assert str(tmp_path) in found or "'judge:f'" in found


def test_the_nearest_name_is_offered(tmp_path: Path) -> None:
    assert "did you mean 'cheerful'?" in problem(tmp_path, "def cheerful(a): ...", "cherful")


def test_nothing_is_run(tmp_path: Path) -> None:
    package = tmp_path / "house"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "room.py").write_text("raise SystemExit('imported')\ndef f(answer): ...")
    assert problem_of_function("house.room:f", [tmp_path], GIVEN) == ""
    assert "has no 'g'" in problem_of_function("house.room:g", [tmp_path], GIVEN)
    assert problem_of_function("house:room.f", [tmp_path], GIVEN) == ""


def test_an_installed_module_is_read_without_its_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "installed_far" / "inner"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "judge.py").write_text("def f(answer): ...")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert problem_of_function("installed_far.inner.judge:f", [], GIVEN) == ""
    assert "has no 'g'" in problem_of_function("installed_far.inner.judge:g", [], GIVEN)
    assert "no module" in problem_of_function("installed_far.other:f", [], GIVEN)
    assert not {name for name in sys.modules if name.startswith("installed_far")}


def test_a_module_that_is_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text("")
    found = problem_of_function("jugde:f", [tmp_path], GIVEN)
    assert found.startswith("'jugde:f': no module 'jugde'")
    assert "did you mean 'judge'?" in found
    assert "no file 'sub/judge.py'" in problem_of_function("sub/judge.py:f", [tmp_path], GIVEN)


def test_a_module_without_a_source_passes() -> None:
    assert problem_of_function("math:nothing", [], GIVEN) == ""
    assert problem_of_function("json:dumps", [], GIVEN) == ""
    assert "has no 'nothing'" in problem_of_function("json:nothing", [], GIVEN)


def test_a_name_of_the_standard_library_is_refused_as_in_the_worker(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("def f(answer): ...")
    assert "standard library" in problem_of_function("json:f", [tmp_path], GIVEN)


def test_a_file_that_was_mended_is_read_again(tmp_path: Path) -> None:
    assert "has no 'f'" in problem(tmp_path, "def other(answer): ...")
    assert problem(tmp_path, "def f(answer): ...") == ""


def test_a_function_that_went_away_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(definitions, "_TRUST_S", 0.01)
    assert problem(tmp_path, "def f(answer): ...") == ""
    (tmp_path / "judge.py").write_text("def other(answer): ...")
    reference = "judge:f", [tmp_path], GIVEN
    wait_until(lambda: problem_of_function(*reference) != "", 5.0, "its absence is noticed")


def test_whether_a_reference_has_a_source(tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text("")
    assert has_source("judge:f", [tmp_path])
    assert not any(
        has_source(each, [tmp_path]) for each in ("nowhere:f", "raw", None, 5, "math:f", "a b:c")
    )


# Where tasks are sent.


def task(func: str, **more: object) -> dict[str, object]:
    return {"question": "why?", "evaluators": [{"func": func}], **more}


def test_a_task_is_refused_when_it_is_sent(tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text("def f(answer): ...")
    assert isinstance(admit(task("judge:f"), TaskRules((tmp_path,))).task, Task)
    with pytest.raises(TaskError, match=r"evaluators\[0\]: func: 'judge:g'"):
        admit(task("judge:g"), TaskRules((tmp_path,)))
    assert isinstance(admit(task("judge:g")).task, Task)


def test_a_task_file_says_which_line_names_a_missing_function(tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text("def f(answer): ...")
    file = tmp_path / "tasks.jsonl"
    file.write_text(
        '{"evaluators": [{"func": "judge:f"}]}\n{"evaluators": [{"func": "judge:g"}]}\n'
    )
    for read in (check_file, checked_tasks):
        with pytest.raises(ConfigError) as caught:
            read(file, TaskRules((tmp_path,)))
        (problem,) = caught.value.problems
        assert problem.line == 2
        assert "has no 'g'" in problem.message


def test_ten_thousand_tasks_read_the_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "judge.py").write_text("def f(answer): ...")
    reads: list[Path] = []
    read = Path.read_bytes

    def counted(path: Path) -> bytes:
        reads.append(path)
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    for _ in range(10_000):
        assert problem_of_function("judge:f", [tmp_path], GIVEN) == ""
    assert reads == [tmp_path / "judge.py"]
