"""Task evaluators load only what the collection offers."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agentpipe.config.function_scope import FunctionScope
from agentpipe.config.task_rules import TaskRules
from agentpipe.core.task import Task
from agentpipe.errors import TaskError
from agentpipe.evaluation.checks import evaluator_problems
from agentpipe.evaluation.evaluators import Evaluation, evaluate
from agentpipe.sending.admission import admit

if TYPE_CHECKING:
    from collections.abc import Iterator

OF_ANOTHER = "def f(answer): open('ran', 'w').close(); return True\n"
IMPORTING = """
import os, os.path
import subprocess as sub
from os import system
from subprocess import run as launch
from far_library import far
from functools import partial
alias = os.system
bound = sub.run
late = partial(sub.run, shell=True)
joined = '-'.join
wrapped = partial(partial(alias))
try:
    from os import popen as either
except ImportError:
    def either(answer): return True
def _private(answer): return True
def f(answer): return True
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A collection's folder beside a foreign one."""
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    for each in (outside, inside / "deep", inside / ".hidden", inside / "env" / "lib"):
        each.mkdir(parents=True)
    for each in (outside, inside / ".hidden", inside / "env" / "lib"):
        (each / "evil.py").write_text(OF_ANOTHER)
    packages = inside / "libs" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "evil.py").write_text(OF_ANOTHER)
    (inside / "env" / "pyvenv.cfg").write_text("")
    (outside / "far_library.py").write_text("def far(answer): return True\n")
    (inside / "judge.py").write_text(IMPORTING)
    (inside / "runs.py").write_text("open('ran', 'w').close()\ndef f(answer): return True\n")
    (inside / "linked.py").symlink_to(outside / "evil.py")
    (inside / "linked_folder").symlink_to(outside)
    (inside / "again.py").symlink_to(inside / "deep" / "near.py")
    (inside / "deep" / "near.py").write_text("def f(answer): return True\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(outside))
    before = set(sys.modules)
    yield inside
    for name in set(sys.modules) - before:
        del sys.modules[name]


def judged(func: str, scope: FunctionScope, question: str = "touch ran") -> Evaluation:
    """Evaluate as a worker does, which trusts no sender."""
    config = {"func": func, "op": "=", "value": 0}
    (evaluation,) = asyncio.run(evaluate([config], question, Task(), scope))
    return evaluation


ATTACKS = [
    "os:system",
    "builtins:eval",
    "subprocess:getoutput",
    "os.path:exists",
    "posix:system",
    "runpy:run_path",
    "{outside}/evil.py:f",
    "../outside/evil.py:f",
    "deep/../../outside/evil.py:f",
    "./../outside/evil.py:f",
    "~/evil.py:f",
    "linked.py:f",
    "linked:f",
    "linked_folder/evil.py:f",
    "linked_folder.evil:f",
    ".hidden/evil.py:f",
    "env/lib/evil.py:f",
    "env.lib.evil:f",
    "libs/site-packages/evil.py:f",
    "evil:f",
    "far_library:far",
    "agentpipe.cli:main",
    "dramatiq:Message",
    "judge:os.system",
    "judge:os",
    "judge:sub.run",
    "judge:system",
    "judge:launch",
    "judge:far",
    "judge:alias",
    "judge:bound",
    "judge:late",
    "judge:joined",
    "judge:wrapped",
    "judge:either",
    "judge:partial",
    "judge:_private",
    "judge:__builtins__",
    "judge:__loader__.load_module",
    "judge:f.__globals__",
    "judge.py:system",
    "__main__:f",
    "_judge:f",
    ":system",
    "judge:",
    "judge:f:g",
    "runs:missing",
    "\0.py:f",
    "a\nb:f",
]


@pytest.mark.parametrize("func", ATTACKS)
def test_what_a_collection_does_not_offer_is_neither_loaded_nor_called(
    folder: Path, func: str
) -> None:
    func = func.format(outside=folder.parent / "outside")
    evaluation = judged(func, FunctionScope(folder))
    assert evaluation.broken
    assert not evaluation.passed
    assert not Path("ran").exists()
    assert "evil" not in sys.modules


# Visible only after importing the module: only the worker refuses these. Senders refuse the rest.
AT_RUN = {f"judge:{each}" for each in ("alias", "bound", "late", "joined", "wrapped", "either")}


@pytest.mark.parametrize("func", [each for each in ATTACKS if each not in AT_RUN])
def test_what_a_collection_does_not_offer_is_not_sent(folder: Path, func: str) -> None:
    func = func.format(outside=folder.parent / "outside")
    before = set(sys.modules)
    with pytest.raises(TaskError, match=r"evaluators\[0\]"):
        admit({"evaluators": [{"func": func}]}, TaskRules(FunctionScope(folder)))
    assert not {name for name in sys.modules if name in {"judge", "evil"}} - before


@pytest.mark.parametrize(
    "func", ["os:system", "/etc/evil.py:f", "../evil.py:f", "a:b.c", "a:_b", "_a:b"]
)
def test_a_sender_without_the_files_refuses_what_no_collection_offers(func: str) -> None:
    assert len(evaluator_problems([{"func": func}])) == 1
    elsewhere = FunctionScope(Path("/nowhere"), is_here=False)
    assert len(evaluator_problems([{"func": func}], elsewhere)) == 1
    assert evaluator_problems([{"func": "judge:f"}], elsewhere) == []


@pytest.mark.parametrize(
    ("func", "reason"),
    [
        ("/a/_b/evil.py:f", "without `..`"),
        ("/a/evil.py:_f", "without `..`"),
        ("../_b/evil.py:f", "without `..`"),
        ("~/_b/evil.py:f", "without `..`"),
        ("file:///a/_b/evil.py:f", "no URL"),
        ("file:_evil.py:f", "no URL"),
        ("https://host/_evil.py:f", "no URL"),
        ("_posixsubprocess:fork_exec", "standard library"),
        ("judge:_f", "'_f' starts with _"),
        ("deep/_near.py:f", "'_near.py' starts with _"),
    ],
)
def test_the_reason_is_the_true_one(func: str, reason: str) -> None:
    (problem,) = evaluator_problems([{"func": func}])
    assert reason in problem


@pytest.mark.parametrize(
    "func",
    ["judge:f", "judge.py:f", "./judge.py:f", "deep/near.py:f", "deep.near:f", "again:f"],
)
def test_functions_of_the_collections_folder_are_offered(folder: Path, func: str) -> None:
    (folder.parent / "outside" / "far_library.py").touch()
    scope = FunctionScope(folder)
    assert evaluator_problems([{"func": func}], scope) == []
    (evaluation,) = asyncio.run(evaluate([{"func": func}], "", Task(), scope))
    assert evaluation.passed, evaluation.error


def test_a_folder_that_is_a_link_itself_is_the_collections(folder: Path) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)
    assert evaluator_problems([{"func": "judge:f"}], FunctionScope(link)) == []


def test_a_module_that_the_collection_names_is_offered(folder: Path) -> None:
    scope = FunctionScope(folder, ("far_library",))
    assert evaluator_problems([{"func": "far_library:far"}], scope) == []
    for func in ("far_library:far", "judge:far"):  # The collection names their module.
        (evaluation,) = asyncio.run(evaluate([{"func": func}], "", Task(), scope))
        assert evaluation.passed, evaluation.error
    assert judged("evil:f", scope).broken


def test_a_package_gathers_its_own_functions(folder: Path) -> None:
    package = folder / "checks"
    package.mkdir()
    (package / "__init__.py").write_text("from .exact import exact\nfrom checks.exact import g\n")
    (package / "exact.py").write_text("def exact(answer): return True\ng = exact\n")
    scope = FunctionScope(folder)
    for func in ("checks:exact", "checks:g", "checks.exact:exact"):
        assert evaluator_problems([{"func": func}], scope) == []
        (evaluation,) = asyncio.run(evaluate([{"func": func}], "", Task(), scope))
        assert evaluation.passed, evaluation.error


@pytest.mark.parametrize(
    "source",
    [
        "import functools\n@functools.cache\ndef f(answer): return True",
        "from functools import partial\ndef g(answer, n): return n == 3\nf = partial(g, n=3)",
        "class C:\n    def __call__(self, answer): return True\nf = C()",
        "class C:\n    def check(self, answer): return True\nf = C().check",
        "f = lambda answer: True",
        "import string\ndef bare(g): return string.Formatter()\ndef g(a): return True\nf = g",
    ],
)
def test_what_a_module_makes_of_its_own_is_offered(folder: Path, source: str) -> None:
    (folder / "made.py").write_text(source)
    (evaluation,) = asyncio.run(evaluate([{"func": "made:f"}], "", Task(), FunctionScope(folder)))
    assert evaluation.passed, evaluation.error
