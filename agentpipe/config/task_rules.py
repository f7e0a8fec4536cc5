"""TaskRules: what a collection offers to its tasks; a task chooses among that and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentpipe.core.sampling import sampling_problems

if TYPE_CHECKING:
    from agentpipe.config.function_scope import FunctionScope
    from agentpipe.config.task_servers import TaskServers
    from agentpipe.core.run_plan import RunPlan
    from agentpipe.core.task import Task


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

    def problems(self, task: Task) -> list[str]:
        """What the task may not have, a sentence each; its evaluators aside."""
        wrong = sampling_problems(task.sampling) if task.sampling else []
        wrong += self.servers.problems(task) if self.servers else []
        if self.needs_question and not task.question.strip():
            wrong.append("question: it is missing or empty: these agents answer nothing else")
        return wrong + (self.plan.problems(task) if self.plan else [])


# Of tasks whose collection is not known.
NO_RULES = TaskRules()
