"""Our table of MCP-Universe's names matches its registries."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip(
    "mcpuniverse", reason="runs in an environment of its own: make test-mcpuniverse"
)

import mcpuniverse
from mcpuniverse.benchmark.configs.mcpmark.prepares import PREPARE_FUNCTIONS
from mcpuniverse.common.misc import ComponentABCMeta
from mcpuniverse.evaluator import COMPARISON_FUNCTIONS, EVALUATION_FUNCTIONS
from mcpuniverse.workflows.builder import WorkflowBuilder

ROOT = Path(__file__).parents[2]
GROUPS = {"agent": "agent", "llm": "llm", "workflow": "workflows"}
# Runs in our environment: the peer's environment imports none of our code.
TELL = """
import json
from agentpipe.config.mcp_universe_names import names
from agentpipe.evaluation import chain
types = {kind: {name: [each.names[0], sorted(each.keys), sorted(each.references)]
                for name, each in types.items()} for kind, types in names().types.items()}
print(json.dumps([types, sorted({*names().operators, *chain.OPS}), sorted(chain.STEPS),
                  sorted(names().prepares)]))
"""
TELL_SERVERS = """
import json
from agentpipe.config.mcp_servers import BUILT_IN
from agentpipe.config.mcp_universe_names import names
from agentpipe.config.mcp_universe_servers import added_servers
print(json.dumps([sorted(names().servers), sorted(names().package_servers), BUILT_IN,
                  sorted(added_servers()), sorted(names().prompts)]))
"""
PACKAGE = Path(mcpuniverse.__file__).parent
# Our versions are pinned, so versions are not compared.
VERSION = re.compile(r"(?<=\w)(?:@(?:latest|[0-9.]+)|==[0-9.a]+)$")
RUNNERS = {"python3", "npx", "uvx", "-y", "-m"}


def told_by_ours(script: str) -> Any:
    command = [str(ROOT / ".venv" / "bin" / "python"), "-c", script]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def ours() -> Any:
    return told_by_ours(TELL)


def told(each: Any) -> list[Any]:
    """A class as our table describes it."""
    parameters = WorkflowBuilder._get_constructor_signature(each)  # noqa: SLF001 - no public way
    references = {key for key, of in parameters.items() if of["is_llm_or_executor"]}
    config = getattr(each, "config_class", None)
    keys = {entry.name for entry in dataclasses.fields(config)} if config else set(parameters)
    return [each.__name__, sorted(keys - references), sorted(references)]


def test_operators_functions_and_preparations(ours: Any) -> None:
    theirs = (COMPARISON_FUNCTIONS, EVALUATION_FUNCTIONS, PREPARE_FUNCTIONS)
    assert [sorted(each) for each in theirs] == ours[1:]


@pytest.mark.parametrize("kind", GROUPS)
def test_types_with_their_keys_and_references(ours: Any, kind: str) -> None:
    classes = WorkflowBuilder._name_to_class(  # noqa: SLF001 - no public way
        ComponentABCMeta.get_class(GROUPS[kind])
    )
    assert {name: told(each) for name, each in classes.items()} == ours[0][kind]


def started(entry: dict[str, Any]) -> list[str]:
    """A server's program with its variables, without the runner that fetches it."""
    stdio = entry["stdio"]
    words = [Path(stdio["command"]).name, *stdio.get("args", [])]
    named = [VERSION.sub("", word) for word in words if word not in {*RUNNERS, "python"}]
    program = [word.replace("_", "-") for word in named]
    return [*program, json.dumps(entry.get("env", {})).replace(" ", "")]


def test_servers_and_what_each_starts() -> None:
    servers, packaged, built_in, added, _ = told_by_ours(TELL_SERVERS)
    theirs = json.loads((PACKAGE / "mcp" / "configs" / "server_list.json").read_text())
    assert sorted(theirs) == servers
    in_package = "mcpuniverse.mcp.servers."
    own = [name for name, each in theirs.items() if in_package in str(each["stdio"].get("args"))]
    assert sorted(own) == packaged
    others = sorted(theirs.keys() - packaged - set(added))  # Ours show no password.
    assert sorted(built_in) == sorted([*others, *added])
    assert {name: started(built_in[name]) for name in others} == {
        name: started(theirs[name]) for name in others
    }


def test_prompts_of_the_package() -> None:
    *_, prompts = told_by_ours(TELL_SERVERS)
    found = PACKAGE.glob("**/*.j2")
    assert sorted(str(each.relative_to(PACKAGE.parent)) for each in found) == prompts
