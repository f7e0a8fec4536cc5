"""Imports point one way, are cheap where speed matters, and have no effects."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "agentpipe"

# A package imports only itself and packages above it in this list.
PACKAGES = (
    "errors",
    "core",
    "rollouts",
    "connections",
    "settings",
    "config",
    "evaluation",
    "brokers",
    "sinks",
    "archive",
    "sending",
    "engines",
    "worker",
    "operations",
    "training",
    "trl",
    "primerl",
    "compat",
    "monitoring",
    "show",
    "tui",
    "metrics",
    "web",
    "tracing",
    "deploy",
    "chaos",
    "cli",
    "actors",
    "__main__",
)
# The parts of a worker, under the same rule.
WORKER = (
    "times",
    "contact",
    "watch",
    "running",
    "outcomes",
    "loop",
    "outbox",
    "claims",
    "ending",
    "handshake",
    "boot_end",
    "runners",
    "middleware",
    "broker",
    "private_broker",
    "trial",
    "fleet",
)
# Our own brokers, sinks and engines are found by entry point, like third-party ones.
FOUND_BY_ENTRY_POINT = (
    "brokers.sqlite",
    "brokers.redis",
    "brokers.rabbitmq",
    "sinks.kafka",
    "sinks.rabbitmq",
    "sinks.sqlite",
    "engines.command",
    "engines.llm",
    "engines.mcpuniverse",
    "engines.python",
)
# Runs in an environment without agentpipe, so it alone has relative imports.
HOST = "engines.mcpuniverse.host"
HEAVY = ("redis", "kafka", "pika", "rich", "dramatiq", "marshmallow", "yaml", "asyncio")
OF_ENGINES = ("genai_prices", "mcp", "httpx2", "pydantic")


def test_files_of_tests_have_names_of_their_own() -> None:
    """Of two files with the same name, one would not be found when both folders run together."""
    run_together = [ROOT / "tests" / name for name in ("unit", "conformance", "integration")]
    names = [file.name for folder in run_together for file in folder.glob("test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def name_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts) or "agentpipe"


MODULES = {name_of(file): file for file in PACKAGE.rglob("*.py")}


def imports_of(node: ast.AST) -> Iterator[str]:
    """What a module imports anywhere, including imports for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (_ours(alias.name) for alias in child.names if _is_ours(alias.name))
        elif isinstance(child, ast.ImportFrom):
            module = child.module or ""
            if child.level:
                module = f"agentpipe.{HOST}.{module}".rstrip(".")
            if _is_ours(module):
                names = [f"{module}.{alias.name}" for alias in child.names]
                yield from (_ours(name if _ours(name) in MODULES else module) for name in names)
        elif not isinstance(child, ast.expr):
            yield from imports_of(child)


def _is_ours(name: str) -> bool:
    return name == "agentpipe" or name.startswith("agentpipe.")


def _ours(name: str) -> str:
    return name.removeprefix("agentpipe.")


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


@cache
def imported(module: str) -> frozenset[str]:
    return frozenset(imports_of(tree_of(module))) - {module}


def place(module: str) -> tuple[int, int]:
    package, _, rest = module.partition(".")
    part = rest.partition(".")[0]
    return PACKAGES.index(package), WORKER.index(part) if package == "worker" and part else -1


def test_a_package_imports_only_what_stands_before_it() -> None:
    after = [
        f"{module} imports {other}"
        for module in sorted(set(MODULES) - {"agentpipe"})
        for other in imported(module) - {"agentpipe"}
        if place(other) > place(module)
    ]
    assert after == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: imported(module) for module in set(MODULES) - {"agentpipe"}}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_nobody_imports_what_is_found_by_entry_point() -> None:
    privileged = [
        f"{module} imports {other}"
        for module in sorted(MODULES)
        for other in imported(module)
        for prefix in FOUND_BY_ENTRY_POINT
        if other.startswith(prefix) and not module.startswith(prefix)
    ]
    assert privileged == []


def test_what_runs_beside_mcpuniverse_stands_alone() -> None:
    inside = [module for module in MODULES if module.startswith(HOST)]
    assert inside
    ours = [
        f"{module} imports {other}"
        for module in inside
        for other in imported(module)
        if not other.startswith(HOST)
    ]
    assert ours == []


def test_imports_are_absolute() -> None:
    relative = [
        f"{module}:{node.lineno}"
        for module in sorted(MODULES)
        if not module.startswith(HOST)
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def in_fresh_process(code: str, folder: Path) -> list[str]:
    """The JSON that ``code`` prints in an interpreter that has not imported agentpipe."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


def test_the_package_and_the_command_line_start_light(tmp_path: Path) -> None:
    code = (
        "import json, sys, agentpipe, agentpipe.cli, agentpipe.__main__\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    assert in_fresh_process(code, tmp_path) == []


def test_sending_loads_no_engine_and_no_agent(tmp_path: Path) -> None:
    code = (
        "import json, sys, agentpipe.sending.dispatcher, agentpipe.cli.send, agentpipe.cli.tail\n"
        "loaded = [name for name in sys.modules if name.startswith('agentpipe.')]\n"
        "banned = ('engines', 'worker', 'actors')\n"
        "found = [name for name in loaded if name.split('.')[1] in banned]\n"
        f"found += [name for name in {OF_ENGINES!r} if name in sys.modules]\n"
        "print(json.dumps(found))"
    )
    assert in_fresh_process(code, tmp_path) == []


def test_a_supervisor_loads_nothing_that_only_its_workers_use(tmp_path: Path) -> None:
    code = (
        "import json, sys, agentpipe.worker.fleet.supervisor\n"
        "banned = ('broker', 'middleware', 'loop.event_loop', 'claims.consumer')\n"
        "found = [name for name in banned if 'agentpipe.worker.' + name in sys.modules]\n"
        "print(json.dumps(found))"
    )
    assert in_fresh_process(code, tmp_path) == []


def test_importing_has_no_effects(tmp_path: Path) -> None:
    # The dataset needs PyTorch, which is not installed here.
    quiet = sorted(set(MODULES) - {"actors", "__main__", "agentpipe", "training.dataset"})
    code = f"""
import importlib, json, logging, os, signal, sys, threading
def state():
    return {{
        "files": sorted(os.listdir(".")),
        "threads": [thread.name for thread in threading.enumerate()],
        "environ": dict(os.environ),
        "signals": [str(signal.getsignal(number)) for number in (2, 15, 17)],
        "logging": [len(logging.getLogger().handlers), logging.getLogger().level],
        "streams": [type(sys.stdout).__name__, type(sys.stderr).__name__],
        "folder": os.getcwd(),
        "path": list(sys.path),
    }}
before, changed = state(), []
for module in {quiet!r}:
    importlib.import_module("agentpipe." + module)
    after = state()
    changed += [module + ": " + key for key in before if before[key] != after[key]]
    before = after
import dramatiq.broker
if dramatiq.broker.global_broker is not None:
    changed.append("a global broker was set")
print(json.dumps(changed))
"""
    assert in_fresh_process(code, tmp_path) == []


def test_without_pytorch_the_dataset_names_what_to_install(tmp_path: Path) -> None:
    code = """
import json, sys
sys.modules["torch"] = None  # As if it were not installed.
try:
    import agentpipe.dataset
except ImportError as error:
    import agentpipe
    print(json.dumps([str(error), isinstance(error, agentpipe.AgentpipeError)]))
"""
    said, is_ours = in_fresh_process(code, tmp_path)
    assert "-m pip install 'dramatiq-agentpipe[torch]'" in said
    assert is_ours


def test_old_paths_of_public_names_give_the_same_objects(tmp_path: Path) -> None:
    code = """
import importlib, json
from agentpipe.compat.old_paths import MOVED
wrong = []
for old in MOVED.keys() - {"agentpipe.dataset", "agentpipe.sinks.dataset"}:
    module = importlib.import_module(old)
    for new in map(importlib.import_module, MOVED[old]):
        own = vars(new).items()
        names = [it for it, value in own if getattr(value, "__module__", "") == new.__name__]
        wrong += [old + "." + it for it in names if getattr(module, it) is not getattr(new, it)]
import agentpipe.trace
from agentpipe.task import Result, Task
assert (Task, Result) == (agentpipe.Task, agentpipe.Result)
print(json.dumps(wrong))
"""
    assert in_fresh_process(code, tmp_path) == []


def test_every_public_name_can_be_imported(tmp_path: Path) -> None:
    code = """
import agentpipe, json
assert agentpipe.__all__ == sorted(agentpipe.__all__)
print(json.dumps([name for name in agentpipe.__all__ if getattr(agentpipe, name, None) is None]))
"""
    assert in_fresh_process(code, tmp_path) == []


def test_help_and_completion_show_the_public_names_only(tmp_path: Path) -> None:
    code = """
import agentpipe, json, pydoc
before = dir(agentpipe)
shown = pydoc.render_doc(agentpipe, renderer=pydoc.plaintext)
exec("from agentpipe import *")
assert set(agentpipe.__all__) <= set(globals())
assert before == dir(agentpipe) == sorted(["__version__", *agentpipe.__all__])
functions = {"load", "sender_broker", "TaskConfig"}
classes = set(agentpipe.__all__) - functions - {"trace"}
missing = [name for name in classes if f"class {name}" not in shown]
missing += [name for name in functions if f"    {name}(" not in shown]
hidden = ("OldPaths", "import_module", "TYPE_CHECKING", "_HOMES")
print(json.dumps(missing + [name for name in hidden if name in shown]))
"""
    assert in_fresh_process(code, tmp_path) == []


def test_each_public_name_says_what_it_is(tmp_path: Path) -> None:
    code = """
import agentpipe, inspect, json
silent = []
for name in agentpipe.__all__:
    value = getattr(agentpipe, name)
    own = vars(value).items() if inspect.isclass(value) else ()
    methods = [it for it, each in own if inspect.isfunction(each) and not it.startswith("_")]
    parts = [value] + [getattr(value, it) for it in methods]
    # A dataclass without a docstring has its signature for one.
    silent += [f"{name}: {each}" for each in parts if not (inspect.getdoc(each) or "").strip()]
    silent += [name] if (value.__doc__ or "").startswith(f"{name}(") else []
print(json.dumps(silent))
"""
    assert in_fresh_process(code, tmp_path) == []
