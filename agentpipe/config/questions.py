"""Questions: which agents can do nothing with a task that asks nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.config.agent_config import load_agent_config
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from agentpipe.config.collection import Collection
    from agentpipe.config.task_rules import TaskRules

# A class or a program may work from other fields. MCP-Universe's agents ask whatever they get.
_ASKING = frozenset({"llm"})


def rules_of(collection: Collection) -> TaskRules:
    """The collection's rules, and whether its agents ask a model nothing but the question."""
    return replace(collection.task_rules, needs_question=_needs_question(collection))


def _needs_question(collection: Collection) -> bool:
    try:
        config = load_agent_config(collection.config_file)
    except ConfigError:  # Its workers say what is wrong: a sender may be without what it names.
        return False
    return (collection.engine or config.type) in _ASKING
