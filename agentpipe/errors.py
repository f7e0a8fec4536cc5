"""Every error of agentpipe.

::

    AgentpipeError
    ├── ConfigError         a setting, collection or agent config is wrong; lists every problem
    │   ├── OptionError     an option of a Dramatiq actor or message is wrong; a ValueError as well
    │   └── LoopTaken       another trainer has the name of this one's loop
    ├── TaskError           a task is malformed and cannot be accepted
    ├── FormatError         a stored record cannot be read (other schema, broken bytes)
    ├── QueueFull           every queue that could take the task is at its bound
    ├── Unreachable         a broker or a sink does not answer, or can do nothing for now
    ├── StoreError          a broker or a sink answers with an error that waiting does not mend
    ├── RecordsRefused      a sink refuses records for what they are
    ├── ResultTooLarge      a store cannot take a result as large as this one
    ├── NoResult            a handle's task has no result that could be returned
    │   └── ResultTimeout       none yet; a TimeoutError as well
    ├── InfraError          for agents: the infrastructure failed, run the task again
    ├── MissingExtra        a package is not installed; an ImportError as well
    ├── MissingVariable     a context has no such variable; a KeyError as well
    ├── AgentFailed         an agent in a process of its own failed
    ├── AgentCrashed        the process of an agent died during a run
    ├── AnswerError         an agent's answer is neither a string nor JSON
    ├── RunLimitExceeded    a run took more requests or tokens than its agent may
    │   └── TimeLimitExceeded   it took longer than its collection allows
    ├── Interrupted         a run was stopped so that another worker can take the task
    └── Cancelled           the task was cancelled while it ran
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class AgentpipeError(Exception):
    """The root of all errors of agentpipe."""

    @property
    def lines(self) -> tuple[str, ...]:
        """What to print. A line break within a line is foreign, and shown as an escape."""
        return (str(self),)


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake and its place.

    Attributes:
        message: What is wrong and what to do.
        file: The file that holds it, or an empty string.
        line: Counted from 1; 0 if unknown.
    """

    message: str
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file and self.line else self.file
        return f"{place}: {self.message}" if place else self.message


class ConfigError(AgentpipeError):
    """The configuration is invalid; ``problems`` holds each mistake once, in file order."""

    def __init__(self, problems: str | Problem | Iterable[Problem]) -> None:
        if isinstance(problems, str):
            problems = Problem(problems)
        if isinstance(problems, Problem):
            problems = (problems,)
        self.problems = tuple(dict.fromkeys(problems))
        super().__init__("\n".join(map(str, self.problems)))

    @property
    def lines(self) -> tuple[str, ...]:
        """One for each problem."""
        return tuple(map(str, self.problems))


class OptionError(ConfigError, ValueError):
    """An option of a Dramatiq actor or message is unknown, wrong, or would have no effect."""


class LoopTaken(ConfigError):  # noqa: N818 - reads as what happened
    """Another trainer has the name of this one's loop; the message says which one."""


class TaskError(AgentpipeError):
    """A task is malformed; ``messages`` has each mistake, with the field's name."""

    def __init__(self, *messages: str) -> None:
        self.messages = messages
        super().__init__("; ".join(messages))


class FormatError(AgentpipeError):
    """A record of a queue or stream is not agentpipe's, or has an unknown version."""


class QueueFull(AgentpipeError):  # noqa: N818 - the contract's name
    """No queue has room.

    Attributes:
        target: The collection or queue.
        depth: Tasks that wait or are delayed in all its queues.
        bound: The tasks that they may hold together.
    """

    def __init__(self, target: str, depth: int, bound: int) -> None:
        self.target, self.depth, self.bound = target, depth, bound
        super().__init__(
            f"{target!r} is full: {depth} of at most {bound} tasks wait or are delayed. "
            "Start more workers, raise max_queue_size, or send with --on-full wait."
        )


class Unreachable(AgentpipeError):  # noqa: N818 - reads as what happened
    """A broker or sink does not answer; the message names its URL without a password.

    Attributes:
        answers: It does, but can do nothing for now: its memory is full, or it is loading.
    """

    def __init__(self, message: str = "", *, answers: bool = False) -> None:
        self.answers = answers
        super().__init__(message)

    @property
    def ailment(self) -> str:
        """What is wrong with it, to follow its name."""
        return "refuses everything for now" if self.answers else "does not answer"


class StoreError(AgentpipeError):
    """A broker or sink answers with an error that is not an outage; the message has its words."""


class RecordsRefused(AgentpipeError):  # noqa: N818 - reads as what happened
    """A sink refuses records for what they are, and will refuse them again: this is not an outage.

    Attributes:
        left: The indices of the published records that are not confirmed, one of which is refused
            at least; empty for all.
        too_large: The reason is their size.
        max_bytes: What the sink takes, if it says so; 0 if not.
        remedy: What an operator can do.
    """

    def __init__(
        self,
        message: str,
        *,
        left: Sequence[int] = (),
        too_large: bool = False,
        max_bytes: int = 0,
        remedy: str = "",
    ) -> None:
        self.left, self.too_large = tuple(left), too_large
        self.max_bytes, self.remedy = max_bytes, remedy
        super().__init__(message)


class ResultTooLarge(AgentpipeError):  # noqa: N818 - reads as what is wrong
    """A store takes no results of this size; it has settled nothing.

    Attributes:
        max_bytes: What the result of a claim may have, by the claim's key, for those beyond it.
        remedy: What an operator can do.
    """

    def __init__(self, max_bytes: Mapping[tuple[str, int], int], remedy: str) -> None:
        self.max_bytes, self.remedy = dict(max_bytes), remedy
        ids = ", ".join(task_id for task_id, _ in max_bytes)
        super().__init__(f"too large for the broker: the results of {ids}; {remedy}")


class NoResult(AgentpipeError):  # noqa: N818 - reads as what happened
    """A handle has no result to return: its sink refuses it, or its dispatcher was closed.

    Attributes:
        kept: The encoded Result, where the sink refuses it and the broker keeps it.
    """

    def __init__(self, message: str = "", *, kept: bytes | None = None) -> None:
        self.kept = kept
        super().__init__(message)


class ResultTimeout(NoResult, TimeoutError):  # noqa: N818 - as its base
    """A result did not come in time; the message says where the task is. It may still come."""


class InfraError(AgentpipeError):
    """Raise it in an agent when a service that it needs fails: the task runs again.

    Attributes:
        retry_after_s: The least time until the next run, if the service named one.
        permanent: Another run fails as well until the set-up is mended: the task goes to the dead
            letters at once, and ``dead replay`` runs it again.
    """

    def __init__(
        self, message: str = "", *, retry_after_s: float | None = None, permanent: bool = False
    ) -> None:
        self.retry_after_s, self.permanent = retry_after_s, permanent
        super().__init__(message)


class MissingExtra(AgentpipeError, ImportError):  # noqa: N818 - reads as what is wrong
    """A part of agentpipe needs an extra that is not installed; the message names it."""


class MissingVariable(AgentpipeError, KeyError):  # noqa: N818 - reads as what is wrong
    """An agent asked its context for a variable that it does not have; the message names it."""

    def __str__(self) -> str:  # KeyError's is a repr.
        return str(self.args[0])


class AgentFailed(AgentpipeError):  # noqa: N818 - reads as what happened
    """An agent failed in a process of its own, which reported it.

    Attributes:
        kind: The error's type in that process.
        traceback: Formatted, if there is one.
        infra: A service or the set-up failed, not the agent.
        retry_after_s: The least time until the next run, if the service named one.
        permanent: The set-up failed: see ``InfraError``.
        shortage: What the machine has no more of, such as open files; empty if it has all.
        rate_limited: A service said that the limit of this credential is reached.
        headers: Of its response, those that may say when to come back.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: str = "AgentFailed",
        traceback: str | None = None,
        infra: bool = False,
        retry_after_s: float | None = None,
        permanent: bool = False,
        shortage: str = "",
        rate_limited: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.kind, self.traceback = kind, traceback
        self.infra = infra or permanent or bool(shortage) or rate_limited
        self.retry_after_s, self.rate_limited = retry_after_s, rate_limited
        self.permanent, self.shortage = permanent, shortage
        self.headers = headers or {}
        super().__init__(message)


class AgentCrashed(AgentpipeError):  # noqa: N818 - reads as what happened
    """The process of an agent died during a run; the worker continues."""


class AnswerError(AgentpipeError):
    """An agent returned something that is neither a string nor JSON."""


class RunLimitExceeded(AgentpipeError):  # noqa: N818 - reads as what happened
    """A run reached a limit before it had an answer; the message says which.

    Attributes:
        stop: The kind of limit, in a rollout's words: ``turns``, ``tokens``, ``length``, ``time``.
    """

    def __init__(self, message: str, *, stop: str = "turns") -> None:
        self.stop = stop
        super().__init__(message)


class TimeLimitExceeded(RunLimitExceeded):
    """A run took longer than its time limit."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"The run took longer than its time limit of {limit_s:g} s.", stop="time")


class Interrupted(AgentpipeError):  # noqa: N818 - reads as what happened
    """The worker stops, or lost its lease: the run ended early and is not counted."""


class Cancelled(AgentpipeError):  # noqa: N818 - reads as what happened
    """The task was cancelled: its run ended, and its Result says ``cancelled``."""
