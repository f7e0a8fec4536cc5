"""TaskRules: what a collection offers to its tasks; a task can choose nothing else."""

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

# Fields by which a task chooses.
_CHOSEN = frozenset({"sampling", "mcp_servers", "use_specified_server", "cleanups"})


@dataclass(frozen=True, slots=True)
class TaskRules:
    """The rules of one collection.

    Attributes:
        functions: Functions that evaluators can name; None if no collection is known.
        servers: The MCP servers that it offers; None if unknown.
        needs_question: Whether its agents need a question.
        plan: The run that the tasks are sent into; None for no run.
    """

    functions: FunctionScope | None = None
    servers: TaskServers | None = None
    plan: RunPlan | None = None
    needs_question: bool = False

    def may_refuse(self, fields: Mapping[str, Any]) -> bool:
        """Whether ``problems`` could find anything in a task with these fields."""
        asks = not _CHOSEN.isdisjoint(fields)
        return asks or (self.needs_question and not fields.get("question", "").strip())

    def problems(self, task: Task) -> list[str]:
        """Return what the task cannot have, except its evaluators and run; one sentence each."""
        wrong = sampling_problems(task.sampling) if task.sampling else []
        wrong += self.servers.problems(task) if self.servers else []
        if self.needs_question and not task.question.strip():
            wrong.append("question: it is missing or empty: these agents answer nothing else")
        return wrong


# For tasks whose collection is not known.
NO_RULES = TaskRules()
