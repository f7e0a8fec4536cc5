"""Which engine runs MCP-Universe's configs and tasks, and what is wrong with them.

Native means that our own engines run it. The engine ``mcpuniverse`` runs everything else with
MCP-Universe's own code. A name unknown to both is a mistake. Nothing of MCP-Universe is imported
here.
"""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe.config.mcp_universe_names import names
from agentpipe.config.mcp_universe_prompts import prompt_faults
from agentpipe.config.mcp_universe_servers import server_faults, server_needs
from agentpipe.core.did_you_mean import did_you_mean, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agentpipe.config.agent_config import AgentConfig
    from agentpipe.config.yaml_source import Document, KeyPath
    from agentpipe.core.task import Task
    from agentpipe.errors import Problem

VERSION = "mcpuniverse 1.1.3"
NATIVE_ENGINE, PEER_ENGINE = "llm", "mcpuniverse"
# Values equivalent to leaving the key out; so is an empty value.
_DEFAULTS = {"use_llm_tool_api": "no"}


def hint_to_type(name: str) -> str:
    """Return a suffix for "no such engine" if MCP-Universe has a type of a similar name."""
    near = nearest(name, [*names().types["agent"], *names().types["workflow"]])
    return f"; MCP-Universe has the type {near!r}" if near and near != name else ""


# Which engine runs what.


def engine_for(config: AgentConfig) -> str:
    """Return the engine that runs a config; a type that MCP-Universe lacks is an engine's name."""
    if not is_theirs(config):
        return config.type
    return PEER_ENGINE if why_not_native(config) else NATIVE_ENGINE


def why_not_native(config: AgentConfig) -> list[str]:
    """Return why a config needs MCP-Universe's own code; empty if our engines can run it."""
    if not is_theirs(config):
        return []
    agent = names().types["agent"].get(config.type)
    if agent is None or not agent.native:
        return [f"type {config.type}"]
    return [*_agent_needs(config.config), *_llm_needs(config)]


def task_needs(task: Task) -> list[str]:
    """Return why a task needs MCP-Universe's own code; empty if our engines can run it."""
    ops = [str(evaluator.get("op", "")) for evaluator in task.evaluators]
    needs = [name for name in ("prepares", "cleanups") if getattr(task, name)]
    needs += [f"op {op}" for op in dict.fromkeys(ops) if op in names().operators]
    return needs + list(server_needs(task.mcp_servers if task.use_specified_server else ()))


def task_faults(task: Task) -> list[str]:
    """Return what no engine can do for a task: unknown preparations and unknown servers.

    MCP-Universe would only log an unknown preparation.

    Raises:
        ConfigError: The user's list of servers cannot be read.
    """
    return [*_prepare_faults(task), *_task_server_faults(task)]


def _prepare_faults(task: Task) -> Iterator[str]:
    known = names().prepares
    for index, prepare in enumerate(task.prepares):
        if (name := str(prepare.get("prepare_func", ""))) not in known:
            hint = did_you_mean(name, sorted(known))
            place = f"prepares[{index}]: prepare_func"
            yield f"{place}: {name!r:.100} is not in {VERSION}: {hint}"


def _task_server_faults(task: Task) -> Iterator[str]:
    servers = task.mcp_servers if task.use_specified_server else []
    for path, message in server_faults(servers):
        yield f"mcp_servers[{path[0]}]: {message}"


def is_theirs(config: AgentConfig) -> bool:
    """Whether a config is in MCP-Universe's own format."""
    return any(config.type in names().types[kind] for kind in ("agent", "workflow"))


def _agent_needs(config: Mapping[str, Any]) -> Iterator[str]:
    for key, value in config.items():
        if key not in names().native_agent_keys and value and _DEFAULTS.get(key) != value:
            yield f"{key} is set"
    yield from server_needs(config.get("servers"))


def _llm_needs(config: AgentConfig) -> Iterator[str]:
    document = _components(config).get(_string(config.config.get("llm")))
    if document is None or _kind(document) != "llm":
        return
    spec = document.data["spec"]
    llms = names().types["llm"]
    if not (spec["type"] in llms and llms[spec["type"]].native):
        yield f"llm type {spec['type']}"
    config_of_llm = spec.get("config", {})
    for key in config_of_llm.keys() - names().native_llm_keys:
        yield f"llm {key} is set"
    if spec["type"] in llms["openrouter"].names and "/" not in config_of_llm.get("model_name", ""):
        yield "llm model_name is MCP-Universe's own alias of a model"


# What no engine runs.


def problems(config: AgentConfig) -> list[Problem]:
    """Return the mistakes in a config that no engine accepts.

    Our engine reads only the agent and its llm; MCP-Universe's code builds everything in the file.

    Raises:
        ConfigError: The user's list of MCP servers cannot be read.
    """
    if not is_theirs(config):
        return []
    components = _components(config)
    if why_not_native(config):
        found = [each for name in components for each in _faults(name, components, native=False)]
        return found or list(_cycles(components))
    needed = dict.fromkeys((config.name, _string(config.config.get("llm"))))
    read = [name for name in needed if name in components]
    return [each for name in read for each in _faults(name, components, native=True)]


def _faults(name: str, components: Mapping[str, Document], *, native: bool) -> Iterator[Problem]:
    document = components[name]
    spec, kind = document.data["spec"], _kind(document)
    types = names().types[kind]
    type_ = types.get(spec["type"])
    if type_ is None:
        hint = did_you_mean(spec["type"], sorted(types))
        message = f"unknown {kind} type {spec['type']!r:.60} in {VERSION}: {hint}"
        yield _problem(document, ("spec", "type"), message)
        return
    for key, kinds in type_.references.items():
        yield from _reference_faults(document, key, kinds, components)
    known = type_.keys | type_.references.keys()
    if native:
        known |= names().native_llm_keys if kind == "llm" else _native_agent_keys()
    yield from _unknown_keys(document, known)
    if not native:
        yield from _file_and_server_faults(document)


def _file_and_server_faults(document: Document) -> Iterator[Problem]:
    """Check what only MCP-Universe's code reads; our engine checks its servers itself."""
    config = document.data["spec"].get("config", {})
    for key, message in prompt_faults(config, Path(document.file)):
        yield _problem(document, ("spec", "config", key), message)
    if _kind(document) == "agent" and config.get("servers"):
        for path, message in server_faults(config["servers"]):
            yield _problem(document, ("spec", "config", "servers", *path), message)


def _native_agent_keys() -> frozenset[str]:
    return names().native_agent_keys | names().types["agent"]["function-call"].keys


def _reference_faults(
    document: Document, key: str, kinds: tuple[str, ...], components: Mapping[str, Document]
) -> Iterator[Problem]:
    config = document.data["spec"].get("config", {})
    if key not in config:
        message = f"missing: name {_article(kinds[0])} of this file"
        yield _problem(document, ("spec", "config", key), message)
        return
    for name in _referred_names(config[key]):
        if name not in components:
            fitting = sorted(n for n, each in components.items() if _kind(each) in kinds)
            hint = did_you_mean(name, fitting)
            message = f"{name!r:.60} is not in this file: {hint}"
            yield _problem(document, ("spec", "config", key), message)
        elif _kind(components[name]) not in kinds:
            message = f"{name!r:.60} is {_article(_kind(components[name]))}: "
            message += f"name {_article(kinds[0])}"
            yield _problem(document, ("spec", "config", key), message)


def _unknown_keys(document: Document, known: frozenset[str]) -> Iterator[Problem]:
    spec = document.data["spec"]
    for key in spec.get("config", {}):
        if key not in known:
            message = f"unknown key for {spec['type']}: {did_you_mean(key, sorted(known))}"
            yield _problem(document, ("spec", "config", key), message)


def _cycles(components: Mapping[str, Document]) -> Iterator[Problem]:
    graph = {name: _referred(document) for name, document in components.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        cycle = error.args[1][::-1]
        message = f"a cycle, {' -> '.join(cycle)}: change one of these references"
        yield _problem(components[cycle[0]], ("spec", "config"), message)


def _referred(document: Document) -> list[str]:
    spec = document.data["spec"]
    type_ = names().types[_kind(document)].get(spec["type"])
    references = type_.references if type_ else {}
    config = spec.get("config", {})
    return [name for key in references for name in _referred_names(config.get(key))]


def _components(config: AgentConfig) -> dict[str, Document]:
    return {document.data["spec"]["name"]: document for document in config.documents}


def _kind(document: Document) -> str:
    return str(document.data["kind"])


def _referred_names(value: Any) -> list[str]:
    """Return the names in a reference; other types become "", which names no component."""
    return [_string(each) for each in (value if isinstance(value, list) else [value])]


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' or kind == 'llm' else 'a'} {kind}"


def _problem(document: Document, path: KeyPath, message: str) -> Problem:
    # Imported here: the YAML reader is slow to import, and only problems need it.
    from agentpipe.config.documents import problem_at

    return problem_at(document, path, message)
