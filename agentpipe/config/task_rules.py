"""TaskRules: what a collection offers to its tasks; a task chooses among that and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentpipe.core.sampling import sampling_problems

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.config.function_scope import FunctionScope
    from agentpipe.config.task_servers import TaskServers
    from agentpipe.core.run_plan import RunPlan
    from agentpipe.core.task import Task

# What a task chooses.
_CHOSEN = frozenset({"sampling", "mcp_servers", "use_specified_server", "cleanups"})


@dataclass(frozen=True, slots=True)
class TaskRules:
    """The rules of one collection.

    Attributes:
        functions: Those that evaluators may name; None where no collection is known.
        servers: The MCP servers that it offers; None where that is not known.
        needs_question: Whether its agents can do nothing without one.
        plan: The run that they are sent into; None for no run.
    """

    functions: FunctionScope | None = None
    servers: TaskServers | None = None
    plan: RunPlan | None = None
    needs_question: bool = False

    def may_refuse(self, fields: Mapping[str, Any]) -> bool:
        """Whether a task that gives these fields may have what ``problems`` looks for."""
        asks = not _CHOSEN.isdisjoint(fields)
        return asks or (self.needs_question and not fields.get("question", "").strip())

    def problems(self, task: Task) -> list[str]:
        """What the task may not have, a sentence each; its evaluators and its run aside."""
        wrong = sampling_problems(task.sampling) if task.sampling else []
        wrong += self.servers.problems(task) if self.servers else []
        if self.needs_question and not task.question.strip():
            wrong.append("question: it is missing or empty: these agents answer nothing else")
        return wrong


# Of tasks whose collection is not known.
NO_RULES = TaskRules()
