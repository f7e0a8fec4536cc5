"""Fingerprint: whether two collections of one name run the same agent in the same way.

It covers the agent config, the contexts and the limits of a run. The number of agents and their
queue and concurrency limits do not affect an answer and are left out. Of a context's ``env`` it
contains only names and references, no values.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.config.yaml_source import load_documents
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 8
_COUNTED = (
    "name",
    "context",
    "time_limit",
    "max_retries",
    "max_crashes",
    "isolation",
    "engine",
    "evaluators",
    "record",
    "on_limit",
    "user",
    "policy",
)
_REFERENCE = re.compile(r"\$\{[^}$]*+(?:\$(?!\{)[^}$]*+)*\}")


def spec_digest(document: Any) -> str:
    """Digest a collection's document as written; empty if it is not a collection's."""
    spec = document.get("spec") if isinstance(document, dict) else None
    if not isinstance(spec, dict):
        return ""
    counted = {name: spec[name] for name in _COUNTED if name in spec}
    contexts = counted.get("context")
    if isinstance(contexts, list):
        counted["context"] = list(map(_without_values, contexts))
    return _digest(counted)


def _without_values(context: Any) -> Any:
    env = context.get("env") if isinstance(context, dict) else None
    if not isinstance(env, dict):
        return context
    shown = {name: _REFERENCE.findall(str(value)) for name, value in env.items()}
    return context | {"env": shown}


def fingerprint(digest: str, agent_file: Path) -> str:
    """Return the fingerprint in hex; empty without a digest or a readable agent config."""
    try:
        status = agent_file.stat()
        agent = _agent_digest(agent_file, status.st_mtime_ns, status.st_size)
    except (OSError, ConfigError):
        return ""
    return _digest([digest, agent]) if digest else ""


@lru_cache(maxsize=256)
def _agent_digest(file: Path, _changed_ns: int, _size: int) -> str:
    return _digest([document.data for document in load_documents(file)])


def _digest(value: Any) -> str:
    options = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
    try:
        data = orjson.dumps(value, default=str, option=options)
    except TypeError:  # YAML has integers that JSON lacks.
        data = repr(value).encode()
    return hashlib.blake2b(data, digest_size=SIZE).hexdigest()
