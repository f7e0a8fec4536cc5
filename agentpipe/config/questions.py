"""Questions: which agents cannot handle a task without a question."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.config.agent_config import load_agent_config
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from agentpipe.config.collection import Collection
    from agentpipe.config.task_rules import TaskRules

# A class or program can use other fields. MCP-Universe's agents pass on whatever they get.
_ASKING = frozenset({"llm"})


def rules_of(collection: Collection) -> TaskRules:
    """Return the collection's rules, including whether its agents need a question."""
    return replace(collection.task_rules, needs_question=_needs_question(collection))


def _needs_question(collection: Collection) -> bool:
    try:
        config = load_agent_config(collection.config_file)
    except ConfigError:  # Workers report this; the sender's machine may lack the files.
        return False
    return (collection.engine or config.type) in _ASKING
