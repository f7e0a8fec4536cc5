"""What a JSON or YAML object seems to be: a task, a component, a list of servers."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from agentpipe.config.schema import AGENT_KINDS, BENCHMARK
from agentpipe.config.yaml_source import kind_in, kind_of
from agentpipe.core.did_you_mean import MISSPELT, nearest
from agentpipe.core.task import ASKED

if TYPE_CHECKING:
    from agentpipe.config.yaml_source import Document

_KINDS = ("collection", BENCHMARK, *AGENT_KINDS)
_FEW_KEYS, _MANY_KEYS = 5, 100
# Without names that files of other programs also use.
_TASK_KEYS = frozenset(ASKED) - {"category", "sampling"}
_RESULT_KEYS = frozenset(("evaluation_results", "outcome"))
_TRANSPORTS = frozenset(("stdio", "sse", "http_url", "streamable_http", "command"))


def is_task(data: Any) -> bool:
    """Whether it has a task's key, even misspelt, and no key of a result or a server list."""
    if not isinstance(data, dict) or data.keys() & _RESULT_KEYS or _servers_in(data):
        return False
    keys = [key for key in islice(data, _MANY_KEYS) if isinstance(key, str)]
    return any(nearest(key, _TASK_KEYS, MISSPELT) for key in keys)


def is_component(data: Any) -> bool:
    """Whether it is in MCP-Universe's format for agents, in JSON."""
    return isinstance(data, dict) and isinstance(data.get("spec"), dict) and "kind" in data


def lacks_kind(data: Any) -> bool:
    """Whether it should have a ``kind``: not a server list, a task, or another program's file."""
    if not isinstance(data, dict):
        return True
    return not (data.keys() & {"kind", "apiVersion"} or _servers_in(data) or is_task(data))


def nearest_kind(document: Document) -> str:
    """The kind of a document, even if misspelt; empty for unrelated documents."""
    kind, data = kind_in(document), document.data
    if isinstance(data, dict) and "apiVersion" in data:
        return ""  # Kubernetes has its own agents, workflows and benchmarks.
    if near := nearest(kind, _KINDS, MISSPELT):
        return near
    spec = data.get("spec") if isinstance(data, dict) and "kind" not in data else None
    if not isinstance(spec, dict) or "name" not in spec:
        return ""
    return "collection" if isinstance(spec.get("config"), str) else "agent"


def describe(data: Any, language: str) -> str:
    """Describe unrelated data in a few words, such as ``JSON: a list of 3, not of tasks``."""
    if isinstance(data, dict):
        return _describe_object(data, language)
    if isinstance(data, list):
        return f"{language}: a list of {len(data):,}, not of tasks"
    return f"{language}: {kind_of(data)}"


def _describe_object(data: dict[str, Any], language: str) -> str:
    if servers := _servers_in(data):
        return f"a server list: {len(servers)} of MCP"
    if data.keys() >= _RESULT_KEYS or "evaluation_results" in data:
        return f"{language}: results of tasks"
    if is_task(data):
        return f"{language}: a task; write tasks as JSON"
    if isinstance(data.get("kind"), str):
        return f"{language}: kind {data['kind']!r:.60}"
    keys = ", ".join(f"{key:.40}" for key in islice(data, _FEW_KEYS))
    more = ", ..." if len(data) > _FEW_KEYS else ""
    return f"{language}: an object with {keys}{more}" if data else f"{language}: an empty object"


def _servers_in(data: dict[str, Any]) -> dict[str, Any]:
    """The servers of MCP-Universe's list or of a client's settings; empty for anything else."""
    servers = data["mcpServers"] if isinstance(data.get("mcpServers"), dict) else data
    return servers if all(map(_is_server, servers.values())) else {}


def _is_server(value: Any) -> bool:
    return isinstance(value, dict) and bool(value.keys() & _TRANSPORTS)
