"""Every error of agentpipe.

::

    AgentpipeError
    ├── ConfigError         a setting, collection or agent config is wrong; lists every problem
    ├── TaskError           a task cannot be accepted as it stands
    ├── FormatError         a stored record cannot be read (other schema, broken bytes)
    ├── QueueFull           every queue that could take the task is at its bound
    ├── Unreachable         a broker or a sink does not answer
    ├── InfraError          for agents: the infrastructure failed, run the task again
    ├── MissingExtra        a package is not installed; an ImportError as well
    ├── AgentFailed         an agent in a process of its own failed
    ├── AgentCrashed        the process of an agent ended without a word
    ├── AnswerError         an agent's answer is not text or JSON
    ├── RunLimitExceeded    a run took more requests or tokens than its agent may
    │   └── TimeLimitExceeded   it took longer than its collection allows
    ├── Interrupted         a run was stopped so that another worker can take the task
    └── Cancelled           somebody cancelled the task while it ran
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class AgentpipeError(Exception):
    """The root: catch it to catch all of ours."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in one place.

    Attributes:
        message: What is wrong and what to do.
        file: The file it stands in, or an empty string.
        line: Counted from 1; 0 where no line can be named.
    """

    message: str
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file and self.line else self.file
        return f"{place}: {self.message}" if place else self.message


class ConfigError(AgentpipeError):
    """What the user configured cannot work; ``problems`` holds each of it once, in file order."""

    def __init__(self, problems: str | Problem | Iterable[Problem]) -> None:
        if isinstance(problems, str):
            problems = Problem(problems)
        if isinstance(problems, Problem):
            problems = (problems,)
        self.problems = tuple(dict.fromkeys(problems))
        super().__init__("\n".join(map(str, self.problems)))


class TaskError(AgentpipeError):
    """A task is malformed; the message names the field."""


class FormatError(AgentpipeError):
    """A record from a queue or a stream is not one of ours, or of a version we do not know."""


class QueueFull(AgentpipeError):  # noqa: N818 - the contract's name
    """No queue has room.

    Attributes:
        target: The collection or queue that was asked.
        depth: Waiting tasks over all its queues.
        bound: What they may hold together.
    """

    def __init__(self, target: str, depth: int, bound: int) -> None:
        self.target, self.depth, self.bound = target, depth, bound
        super().__init__(
            f"{target!r} is full: {depth} tasks wait, {bound} may. "
            "Start more workers, raise max_queue_size, or send with --on-full wait."
        )


class Unreachable(AgentpipeError):  # noqa: N818 - reads as what happened
    """A broker or sink does not answer; the message names its URL without a password."""


class InfraError(AgentpipeError):
    """Raise it in an agent when a service it needs fails: the task is tried again.

    Attributes:
        retry_after_s: Not before so many seconds, where the service said so.
    """

    def __init__(self, message: str = "", *, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class MissingExtra(AgentpipeError, ImportError):  # noqa: N818 - reads as what is wrong
    """A part of agentpipe wants a package that only its extra installs; the message names it."""


class AgentFailed(AgentpipeError):  # noqa: N818 - reads as what happened
    """An agent failed in a process of its own, which told so.

    Attributes:
        kind: The name of the error's type there.
        traceback: As text, where there is one.
        infra: A service failed, not the agent.
        retry_after_s: Not before so many seconds, where the service said so.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: str = "AgentFailed",
        traceback: str | None = None,
        infra: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        self.kind, self.traceback = kind, traceback
        self.infra, self.retry_after_s = infra, retry_after_s
        super().__init__(message)


class AgentCrashed(AgentpipeError):  # noqa: N818 - reads as what happened
    """The process of an agent ended in the middle of a run; the worker goes on."""


class AnswerError(AgentpipeError):
    """An agent returned something that is neither text nor JSON."""


class RunLimitExceeded(AgentpipeError):  # noqa: N818 - reads as what happened
    """A run came to a limit before it had an answer; the message says which."""


class TimeLimitExceeded(RunLimitExceeded):
    """A run took longer than its time limit."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"The run took longer than its time limit of {limit_s:g} s.")


class Interrupted(AgentpipeError):  # noqa: N818 - reads as what happened
    """The worker stops, or lost its lease: the run ended early and counts for nothing."""


class Cancelled(AgentpipeError):  # noqa: N818 - reads as what happened
    """Somebody cancelled the task: its run was ended, and its Result says ``cancelled``."""
