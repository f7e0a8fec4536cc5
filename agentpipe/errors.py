"""All errors of agentpipe.

::

    AgentpipeError
    ├── ConfigError         invalid setting, collection or agent config; lists every problem
    │   ├── OptionError     invalid option of a Dramatiq actor or message; also a ValueError
    │   └── LoopTaken       another trainer holds this loop's name
    ├── TaskError           a task is malformed and is rejected
    ├── FormatError         a stored record cannot be decoded (unknown schema, corrupt bytes)
    ├── QueueFull           every queue that could take the task is full
    ├── Unreachable         a broker or sink does not answer, or refuses everything for now
    ├── StoreError          a broker or sink returns an error that waiting does not fix
    ├── RecordsRefused      a sink rejects records because of their content or size
    ├── ResultTooLarge      a result exceeds the store's size limit
    ├── NoResult            a handle has no result to return
    │   └── ResultTimeout       no result in time; also a TimeoutError
    ├── InfraError          raised by agents: the infrastructure failed, run the task again
    ├── MissingExtra        a package is not installed; also an ImportError
    ├── MissingVariable     a variable is missing from a context; also a KeyError
    ├── AgentFailed         an agent in its own process failed
    ├── AgentCrashed        an agent's process died during a run
    ├── AnswerError         an agent's answer is neither a string nor JSON
    ├── RunLimitExceeded    a run exceeded its agent's limit of requests or tokens
    │   └── TimeLimitExceeded   a run exceeded its collection's time limit
    ├── Interrupted         a run was stopped so that another worker can take its task
    └── Cancelled           the task was cancelled during its run
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
        """Lines to print. Line breaks inside a line come from outside and are shown escaped."""
        return (str(self),)


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake and where it is.

    Attributes:
        message: What is wrong and what to do.
        file: The file that holds it, or an empty string.
        line: Line number from 1; 0 if unknown.
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
        """One line per problem."""
        return tuple(map(str, self.problems))


class OptionError(ConfigError, ValueError):
    """An option of a Dramatiq actor or message is unknown, invalid, or would have no effect."""


class LoopTaken(ConfigError):  # noqa: N818 - reads as what happened
    """Another trainer holds this loop's name; the message says which."""


class TaskError(AgentpipeError):
    """A task is malformed; ``messages`` has one entry per mistake, with the field's name."""

    def __init__(self, *messages: str) -> None:
        self.messages = messages
        super().__init__("; ".join(messages))


class FormatError(AgentpipeError):
    """A record of a queue or stream is not agentpipe's, or has an unknown schema version."""


class QueueFull(AgentpipeError):  # noqa: N818 - the contract's name
    """No queue has room.

    Attributes:
        target: The collection or queue.
        depth: Waiting and delayed tasks in all its queues.
        bound: Total number of tasks that these queues may hold.
    """

    def __init__(self, target: str, depth: int, bound: int) -> None:
        self.target, self.depth, self.bound = target, depth, bound
        super().__init__(
            f"{target!r} is full: {depth} of at most {bound} tasks wait or are delayed. "
            "Start more workers, raise max_queue_size, or send with --on-full wait."
        )


class Unreachable(AgentpipeError):  # noqa: N818 - reads as what happened
    """A broker or sink does not answer; the message has its URL without the password.

    Attributes:
        answers: The server answers but refuses everything for now: out of memory, or loading.
    """

    def __init__(self, message: str = "", *, answers: bool = False) -> None:
        self.answers = answers
        super().__init__(message)

    @property
    def ailment(self) -> str:
        """What is wrong, phrased to follow the server's name."""
        return "refuses everything for now" if self.answers else "does not answer"


class StoreError(AgentpipeError):
    """A broker or sink returned an error that is not an outage; the message quotes it."""


class RecordsRefused(AgentpipeError):  # noqa: N818 - reads as what happened
    """A sink rejected records because of their content or size. Retrying does not help.

    Attributes:
        left: Indices of the records that are not confirmed, at least one of them rejected; empty
            means all.
        too_large: Whether the records were too large.
        max_bytes: The sink's limit, if it reported one; else 0.
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
    """Some results exceed the store's size limit; the store has settled nothing.

    Attributes:
        max_bytes: Size limit of each oversized result, by claim key.
        remedy: What an operator can do.
    """

    def __init__(self, max_bytes: Mapping[tuple[str, int], int], remedy: str) -> None:
        self.max_bytes, self.remedy = dict(max_bytes), remedy
        ids = ", ".join(task_id for task_id, _ in max_bytes)
        super().__init__(f"too large for the broker: the results of {ids}; {remedy}")


class NoResult(AgentpipeError):  # noqa: N818 - reads as what happened
    """A handle has no result to return: its sink rejected it, or its dispatcher was closed.

    Attributes:
        kept: The encoded Result, if the sink rejected it and the broker keeps it.
    """

    def __init__(self, message: str = "", *, kept: bytes | None = None) -> None:
        self.kept = kept
        super().__init__(message)


class ResultTimeout(NoResult, TimeoutError):  # noqa: N818 - as its base
    """No result arrived in time; it may still come. The message says where the task is."""


class InfraError(AgentpipeError):
    """Raise it in an agent when a required service fails: the task runs again.

    Attributes:
        retry_after_s: Minimum delay before the next run, if the service gave one.
        permanent: Further runs fail too until an operator fixes the setup. The task goes straight
            to the dead letters; ``dead replay`` runs it again.
    """

    def __init__(
        self, message: str = "", *, retry_after_s: float | None = None, permanent: bool = False
    ) -> None:
        self.retry_after_s, self.permanent = retry_after_s, permanent
        super().__init__(message)


class MissingExtra(AgentpipeError, ImportError):  # noqa: N818 - reads as what is wrong
    """A part of agentpipe needs an extra that is not installed; the message names the extra."""


class MissingVariable(AgentpipeError, KeyError):  # noqa: N818 - reads as what is wrong
    """An agent read a variable that its context does not define; the message names it."""

    def __str__(self) -> str:  # KeyError.__str__ returns a repr.
        return str(self.args[0])


class AgentFailed(AgentpipeError):  # noqa: N818 - reads as what happened
    """An agent in its own process failed and reported the failure.

    Attributes:
        kind: The error's type name in that process.
        traceback: The formatted traceback, if any.
        infra: A service or the setup failed, not the agent.
        retry_after_s: Minimum delay before the next run, if the service gave one.
        permanent: The setup failed; see ``InfraError``.
        shortage: The exhausted resource of the machine, such as open files; empty if none.
        rate_limited: A service reported that this credential's rate limit is reached.
        headers: The response headers that can say when to retry.
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
    """An agent's process died during a run; the worker continues."""


class AnswerError(AgentpipeError):
    """An agent returned something that is neither a string nor JSON."""


class RunLimitExceeded(AgentpipeError):  # noqa: N818 - reads as what happened
    """A run reached a limit before it had an answer; the message says which.

    Attributes:
        stop: The kind of limit, as in a rollout's ``stop``: ``turns``, ``tokens``, ``length``,
            ``time``.
    """

    def __init__(self, message: str, *, stop: str = "turns") -> None:
        self.stop = stop
        super().__init__(message)


class TimeLimitExceeded(RunLimitExceeded):
    """A run took longer than its time limit."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"The run took longer than its time limit of {limit_s:g} s.", stop="time")


class Interrupted(AgentpipeError):  # noqa: N818 - reads as what happened
    """The worker is stopping or lost its lease: the run ended early and does not count."""


class Cancelled(AgentpipeError):  # noqa: N818 - reads as what happened
    """The task was cancelled: its run ended, and its Result has the status ``cancelled``."""
