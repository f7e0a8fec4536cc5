"""Imports point one way, cost little where speed matters, and have no effects."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "agentpipe"

# A module imports only what stands in lines above its own. A name that ends with a dot is
# everything below that package.
LAYERS = (
    ("errors", "words", "finding", "bell", "thread", "brokers.store", "sinks.sink", "agentpipe"),
    ("cron", "usage", "redactor", "children.warden", "template", "hint", "vitals"),
    ("mcp_servers",),
    (
        "settings",
        "task",
        "trace",
        "context",
        "locate",
        "yamldoc",
        "database",
        "disk",
        "stats",
        "report",
        "clocks",
    ),
    ("why.reason", "why.phrases"),
    ("why.waiting",),
    ("why.details",),
    ("why", "logs", "plugins", "url", "failure", "schema", "paths", "children"),
    ("forward",),
    ("children.nursery", "children.pipes"),
    ("component",),
    ("mcp_universe",),
    ("chain",),
    ("user_function",),
    ("collection", "agent_config", "evaluate"),
    ("intake", "agent", "brokers", "sinks", "fit"),
    ("instance", "children.agent", "either"),
    ("run",),
    ("children.serve", "children.probe"),
    ("children.engine",),
    ("task_file",),
    ("benchmark",),
    ("survey",),
    ("gather",),
    ("amqp", "amqp.letter", "amqp.address"),
    ("amqp.channel",),
    ("amqp.connection", "amqp.health", "brokers.rabbitmq.names"),
    (
        "brokers.sqlite.graves",
        "brokers.sqlite.tables",
        "brokers.sqlite.turns",
        "brokers.redis.address",
        "brokers.redis.scripts",
        "sinks.kafka.address",
        "sinks.kafka.errors",
    ),
    (
        "brokers.sqlite.",
        "brokers.rabbitmq.asking",
        "brokers.rabbitmq.bell",
        "brokers.rabbitmq.calendar",
        "brokers.rabbitmq.crew",
        "brokers.rabbitmq.holds",
        "brokers.rabbitmq.lock",
        "brokers.rabbitmq.management",
        "brokers.rabbitmq.post",
        "brokers.rabbitmq.tallies",
        "brokers.redis.connect",
        "sinks.kafka.topic",
        "sinks.rabbitmq.topic",
    ),
    ("brokers.rabbitmq.nodes", "sinks.kafka.health"),
    ("brokers.rabbitmq.", "brokers.redis.", "sinks.kafka.", "sinks.rabbitmq.history"),
    (
        "brokers.rabbitmq.marks",
        "brokers.rabbitmq.serving",
        "brokers.rabbitmq.whereabouts",
        "sinks.rabbitmq.reader",
    ),
    ("brokers.rabbitmq.desk", "sinks.rabbitmq"),
    ("engines.llm.providers", "engines.command.argv"),
    ("engines.llm.spec",),
    ("engines.llm.places", "engines.llm.stdio", "engines.llm.clients", "engines.llm.lean"),
    ("engines.llm.toolbox",),
    ("engines.llm.model",),
    ("engines.llm.agent",),
    (
        "engines.mcpuniverse.host.channel",
        "engines.mcpuniverse.host.environ",
        "engines.mcpuniverse.host.failure",
        "engines.mcpuniverse.host.threads",
        "engines.mcpuniverse.host.usage",
    ),
    ("engines.mcpuniverse.host.agent", "engines.mcpuniverse.host.watch"),
    ("engines.mcpuniverse.host.llm", "engines.mcpuniverse.host.verdict"),
    ("engines.mcpuniverse.host.taps", "engines.mcpuniverse.host.run"),
    ("engines.mcpuniverse.host.preload",),
    ("engines.mcpuniverse.host.session",),
    ("engines.mcpuniverse.host",),
    ("actor", "dispatcher", "stream", "brokers.", "sinks.", "engines", "engines."),
    ("brokers.broker",),
    ("results",),
    (
        "consume",
        "dead",
        "operations",
        "schedule",
        "doctor",
        "scaffold",
        "mq",
        "dataset",
    ),
    ("loop", "keep"),
    ("worker",),
    ("compile", "supervise"),
    ("actors", "fleet"),
    ("pipeline",),
    ("cli",),
    ("cli.common",),
    ("top", "top.figures", "top.history", "top.cells"),
    ("top.flow",),
    ("top.view",),
    ("top.panels", "top.keys", "top.hands", "top.fetch", "top.terminal"),
    ("top.frame",),
    ("top.screen",),
    ("cli.seed", "cli.work", "cli.tail", "cli.letter", "cli.pause", "cli.shells"),
    ("cli.clean_tasks",),
    ("cli.",),
    ("__main__",),
)
FOUND_BY_ENTRY_POINT = (
    "engines.",
    "brokers.sqlite",
    "brokers.redis",
    "brokers.rabbitmq",
    "sinks.kafka",
    "sinks.rabbitmq",
    "sinks.sqlite",
)
# It runs in another environment, where there is no agentpipe: alone its imports are relative.
HOST = "engines.mcpuniverse.host"
HEAVY = ("redis", "kafka", "pika", "rich", "dramatiq", "marshmallow", "yaml", "asyncio")
OF_ENGINES = ("pydantic_ai", "openai", "anthropic", "mcp", "httpx2", "pydantic")


def name_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts) or "agentpipe"


MODULES = {name_of(file): file for file in PACKAGE.rglob("*.py")}


def layer_of(module: str) -> int:
    for number, names in enumerate(LAYERS):
        if module in names:
            return number
    package = module.rpartition(".")[0] + "."
    for number, names in enumerate(LAYERS):
        if package in names:
            return number
    raise AssertionError(f"{module} has no place yet: add it to LAYERS")


def imports_of(node: ast.AST) -> Iterator[str]:
    """What a module imports anywhere, but for the eyes of a type checker."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (_ours(alias.name) for alias in child.names if _is_ours(alias.name))
        elif isinstance(child, ast.ImportFrom):
            module = child.module or ""
            if child.level:
                module = f"agentpipe.{HOST}.{module}".rstrip(".")
            if _is_ours(module):
                names = [f"{module}.{alias.name}" for alias in child.names]
                yield from (_ours(name if _ours(name) in MODULES else module) for name in names)
        else:
            yield from imports_of(child)


def _is_ours(name: str) -> bool:
    return name == "agentpipe" or name.startswith("agentpipe.")


def _ours(name: str) -> str:
    return name.removeprefix("agentpipe.")


def imported(module: str) -> set[str]:
    return set(imports_of(ast.parse(MODULES[module].read_text()))) - {module}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_from_below(module: str) -> None:
    mine = layer_of(module)
    above = {other for other in imported(module) if layer_of(other) >= mine}
    assert not above, f"{module} imports {above}, which stand beside or above it"


@pytest.mark.parametrize("module", sorted(set(MODULES)))
def test_nobody_imports_what_is_found_by_entry_point(module: str) -> None:
    privileged = {
        other
        for other in imported(module)
        if any(
            other.startswith(prefix) and not module.startswith(prefix)
            for prefix in FOUND_BY_ENTRY_POINT
        )
    }
    assert not privileged


@pytest.mark.parametrize("module", sorted(MODULES))
def test_what_runs_beside_mcpuniverse_stands_alone(module: str) -> None:
    levels = {
        node.level
        for node in ast.walk(ast.parse(MODULES[module].read_text()))
        if isinstance(node, ast.ImportFrom)
    }
    if module.startswith(HOST):
        assert not {other for other in imported(module) if not other.startswith(HOST)}
    else:
        assert levels <= {0}, "imports are absolute"


@pytest.mark.parametrize("module", ["errors", "brokers.store", "sinks.sink", "thread"])
def test_the_nouns_know_nothing_of_ours(module: str) -> None:
    assert not imported(module)


@pytest.mark.parametrize("module", ["settings", "task"])
def test_settings_and_task_know_only_the_errors(module: str) -> None:
    assert imported(module) == {"errors"}


def in_fresh_process(code: str, folder: Path) -> list[str]:
    """What ``code`` prints as JSON, in an interpreter that has imported nothing of ours."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
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
        "import json, sys, agentpipe.dispatcher, agentpipe.cli.send, agentpipe.cli.tail\n"
        "loaded = [name for name in sys.modules if name.startswith('agentpipe.')]\n"
        "banned = ('engines', 'run', 'results', 'worker', 'compile', 'actors', 'children')\n"
        "found = [name for name in loaded if name.split('.')[1] in banned]\n"
        f"found += [name for name in {OF_ENGINES!r} if name in sys.modules]\n"
        "print(json.dumps(found))"
    )
    assert in_fresh_process(code, tmp_path) == []


def test_importing_has_no_effects(tmp_path: Path) -> None:
    # The dataset wants PyTorch, which is not here.
    quiet = sorted(set(MODULES) - {"actors", "__main__", "agentpipe", "dataset"})
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
    assert "pip install 'agentpipe[torch]'" in said
    assert is_ours


def test_every_public_name_can_be_imported(tmp_path: Path) -> None:
    code = """
import agentpipe, json
assert agentpipe.__all__ == sorted(agentpipe.__all__)
print(json.dumps([name for name in agentpipe.__all__ if getattr(agentpipe, name, None) is None]))
"""
    assert in_fresh_process(code, tmp_path) == []
