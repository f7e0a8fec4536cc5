from __future__ import annotations

import sys
from pathlib import Path

import pytest

from agentpipe.config import definitions
from agentpipe.config.definitions import problem_of_function
from agentpipe.config.function_scope import FunctionScope
from agentpipe.config.task_rules import TaskRules
from agentpipe.core.task import Task
from agentpipe.errors import ConfigError, TaskError
from agentpipe.sending.admission import admit
from agentpipe.sending.checked_tasks import check_file, checked_tasks
from tests.support import wait_until

GIVEN = ("value", "op_args", "task")


def problem(folder: Path, source: str, name: str = "f") -> str:
    (folder / "judge.py").write_text(source)
    return problem_of_function(f"judge:{name}", FunctionScope(folder), GIVEN)


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
        ("from json import loads as f", "imported from json: define a function"),
        ("from os import system as f", "imported from os"),
        ("import f", "a module"),
        ("import f.g", "a module"),
        ("import os as f", "a module"),
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
    assert problem_of_function("house.room:f", FunctionScope(tmp_path), GIVEN) == ""
    assert "has no 'g'" in problem_of_function("house.room:g", FunctionScope(tmp_path), GIVEN)
    dotted = problem_of_function("house:room.f", FunctionScope(tmp_path), GIVEN)
    assert "without a dot" in dotted


def test_a_module_that_the_collection_names_is_read_without_its_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "installed_far" / "inner"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "judge.py").write_text("def f(answer): ...")
    monkeypatch.syspath_prepend(str(tmp_path))
    named = ("installed_far.inner.judge", "installed_far.other")
    scope = FunctionScope(tmp_path / "empty", named)
    assert problem_of_function("installed_far.inner.judge:f", scope, GIVEN) == ""
    assert "has no 'g'" in problem_of_function("installed_far.inner.judge:g", scope, GIVEN)
    assert "no module" in problem_of_function("installed_far.other:f", scope, GIVEN)
    assert not {name for name in sys.modules if name.startswith("installed_far")}


def test_a_module_that_is_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text("")
    found = problem_of_function("jugde:f", FunctionScope(tmp_path), GIVEN)
    assert found.startswith("'jugde:f': no module 'jugde'")
    assert "did you mean 'judge'?" in found
    assert "`evaluators: [jugde]`" in found
    found = problem_of_function("sub/judge.py:f", FunctionScope(tmp_path), GIVEN)
    assert "no file 'sub/judge.py'" in found


def test_a_name_of_the_standard_library_is_refused_as_in_the_worker(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("def f(answer): ...")
    assert "standard library" in problem_of_function("json:f", FunctionScope(tmp_path), GIVEN)


def test_a_file_that_was_mended_is_read_again(tmp_path: Path) -> None:
    assert "has no 'f'" in problem(tmp_path, "def other(answer): ...")
    assert problem(tmp_path, "def f(answer): ...") == ""


def test_a_function_that_went_away_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(definitions, "_TRUST_S", 0.01)
    assert problem(tmp_path, "def f(answer): ...") == ""
    (tmp_path / "judge.py").write_text("def other(answer): ...")
    reference = "judge:f", FunctionScope(tmp_path), GIVEN
    wait_until(lambda: problem_of_function(*reference) != "", 5.0, "its absence is noticed")


def test_whether_a_reference_has_a_source(tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text("")
    has = FunctionScope(tmp_path).has
    assert has("judge:f")
    assert not any(has(each) for each in ("nowhere:f", "raw", None, 5, "math:f", "a b:c"))


# Where tasks are sent.


def task(func: str, **more: object) -> dict[str, object]:
    return {"question": "why?", "evaluators": [{"func": func}], **more}


def test_a_task_is_refused_when_it_is_sent(tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text("def f(answer): ...")
    assert isinstance(admit(task("judge:f"), TaskRules(FunctionScope(tmp_path))).task, Task)
    with pytest.raises(TaskError, match=r"evaluators\[0\]: func: 'judge:g'"):
        admit(task("judge:g"), TaskRules(FunctionScope(tmp_path)))
    assert isinstance(admit(task("judge:g")).task, Task)


def test_a_task_file_says_which_line_names_a_missing_function(tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text("def f(answer): ...")
    file = tmp_path / "tasks.jsonl"
    file.write_text(
        '{"evaluators": [{"func": "judge:f"}]}\n{"evaluators": [{"func": "judge:g"}]}\n'
    )
    for read in (check_file, checked_tasks):
        with pytest.raises(ConfigError) as caught:
            read(file, TaskRules(FunctionScope(tmp_path)))
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
        assert problem_of_function("judge:f", FunctionScope(tmp_path), GIVEN) == ""
    assert reads == [tmp_path / "judge.py"]
