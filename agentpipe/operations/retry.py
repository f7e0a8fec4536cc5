"""Retry: sends the tasks of a run that ended badly again, as further attempts at their samples.

No state is kept about what was sent. An attempt's id is the first attempt's id with ``~r`` and a
number, and an id is accepted once: repeating a retry adds nothing while an attempt is under way,
and an attempt that ended well is the last one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.brokers.capabilities import KeepsDeadLetters
from agentpipe.core.portions import portions_of
from agentpipe.core.result import OUTCOMES
from agentpipe.core.secret_forms import MASK
from agentpipe.core.task import Task
from agentpipe.errors import ConfigError, FormatError, TaskError
from agentpipe.evaluation.kept_answer import begun_again
from agentpipe.operations.judging.samples import Sample, families
from agentpipe.operations.resend import Destination, Resend
from agentpipe.operations.unhandled import Unhandled
from agentpipe.sending.admission import admit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.dead_letter import DeadLetter
    from agentpipe.core.result import Result
    from agentpipe.operations.resend import OnFull
    from agentpipe.sending.admission import AdmittedTask
    from agentpipe.sending.dispatcher import Dispatcher

# Failures not due to the answer, or that may be chance; a judged answer is never retried.
USUAL = ("agent_error", "limit", "eval_error", "infra_error")
ALLOWED = tuple(each for each in OUTCOMES if each != "ok")
BATCH = 20
_SUFFIX = "~r"


@dataclass(frozen=True, slots=True)
class Ended:
    """The last attempt at a sample, to be followed by another.

    Attributes:
        result: Its Result, without trace and evaluations.
        next_id: The id of the next attempt.
    """

    result: Result
    next_id: str


@dataclass(slots=True)
class Retried(Unhandled):
    """The outcome of a retry.

    Attributes:
        task_ids: Ids of the accepted attempts.
        duplicate_ids: Ids of attempts that were sent before and are under way.
        refused: Number of attempts refused because the queues are full.
    """

    task_ids: list[str] = field(default_factory=list)
    duplicate_ids: list[str] = field(default_factory=list)
    refused: int = 0


def ended_badly(
    results: Iterable[Result], outcomes: Sequence[str] = USUAL, error: str = ""
) -> list[Ended]:
    """The samples whose last attempt has one of the outcomes, and ``error`` in its error.

    Memory grows with these samples, and by some hundred bytes per other result.
    """
    samples: list[Sample] = []
    kept: dict[str, Result] = {}
    for each in results:
        samples.append(Sample.of(each))
        if each.outcome in outcomes and error.lower() in _error_of(each).lower():
            kept[each.task_id] = replace(each, trace=[], evaluation_results=[], result=None)
    return [
        Ended(kept[family[-1].task_id], next_id(first, family))
        for first, family in families(samples).items()
        if family[-1].task_id in kept and family[-1].outcome in outcomes
    ]


def next_id(first: str, family: Iterable[Sample]) -> str:
    """The id of the next attempt at the sample whose first attempt has the id ``first``."""
    prefix = f"{first}{_SUFFIX}"
    numbers = (it.task_id.removeprefix(prefix) for it in family if it.task_id.startswith(prefix))
    taken = max((int(it) for it in numbers if it.isdecimal()), default=0)
    return f"{prefix}{taken + 1}"


def _error_of(result: Result) -> str:
    error = result.error or {}
    return f"{error.get('type', '')}: {error.get('message', '')}"


class Retry:
    """Sends the next attempts, a few at a time; a dead letter holds the complete original task."""

    def __init__(self, store: Store, dispatcher: Dispatcher, *, on_full: OnFull = "refuse") -> None:
        self._letters = store if isinstance(store, KeepsDeadLetters) else None
        self._dispatcher = dispatcher
        self._done = Retried()
        self._resend = Resend(dispatcher, self._letters, on_full, self._done)

    def run(self, ended: Sequence[Ended]) -> Retried:
        """Send all attempts."""
        for batch in portions_of(ended, BATCH):
            for _, sent in self._resend.send(self._tasks(batch)):
                self._done.task_ids += sent.task_ids
                self._done.duplicate_ids += sent.duplicate_ids
                self._done.refused += sent.refused
        return self._done

    def _tasks(self, ended: Sequence[Ended]) -> Iterator[tuple[Destination, AdmittedTask]]:
        dead = self._dead([each.result.task_id for each in ended])
        for each in ended:
            letter = dead.get(each.result.task_id)
            if task := self._task(each, letter):
                yield _target_of(each.result, letter, task.task), task

    def _dead(self, task_ids: Sequence[str]) -> dict[str, DeadLetter]:
        if self._letters is None:
            return {}
        return {letter.task_id: letter for letter in self._letters.read_dead(task_ids)}

    def _task(self, ended: Ended, letter: DeadLetter | None) -> AdmittedTask | None:
        try:
            task = again(ended, letter)
            return admit(task, self._dispatcher.rules_of(ended.result.collection or ""))
        except (TaskError, FormatError, orjson.JSONDecodeError) as error:
            self._done.note(f"{ended.result.task_id} is not sent again: {error}")
            return None


def again(ended: Ended, letter: DeadLetter | None) -> Task:
    """The task of the next attempt, without its deadline.

    Raises:
        TaskError: The stored task is not the complete task that was sent.
        FormatError: The letter does not hold a task.
    """
    result = ended.result
    task = (
        Task.decode(orjson.loads(letter.payload)) if letter and letter.payload else _stored(result)
    )
    return replace(
        task,
        task_id=ended.next_id,
        retry_of=result.task_id,
        replay_of=None,
        deadline=None,
        spent_before=None,
        answered=begun_again(task.answered) if task.answered else None,
    )


def _stored(result: Result) -> Task:
    """The task in a Result, in the form that a sender sends."""
    if result.task is None:
        raise TaskError("its result does not hold the task; send it from its file")
    if "task" in (result.truncated or {}).get("fields", []):
        raise TaskError("the sink has cut its task; send it from its file")
    if MASK in orjson.dumps(result.task).decode():
        raise TaskError(f"its task has {MASK} where a credential was; send it from its file")
    return Task.load({**result.task, **_carried(result)})


def _carried(result: Result) -> dict[str, Any]:
    names = ("metadata", "group_id", "sample_index", "group_size", "policy_version", "seed", "run")
    return {"task_id": result.task_id, **{name: getattr(result, name) for name in names}}


def _target_of(result: Result, letter: DeadLetter | None, task: Task) -> Destination:
    """The collection; for a kept answer, the agent that gave it, whose context judges it."""
    if task.answered is not None and letter is not None:
        return Destination(letter.queue, round_robin=False)
    return Destination(result.collection or result.agent or "")


def checked_outcomes(text: str) -> tuple[str, ...]:
    """Parse outcomes separated by commas.

    Raises:
        ConfigError: An outcome is unknown, or means that an answer was judged.
    """
    names = tuple(name.strip() for name in text.split(","))
    if "ok" in names:
        raise ConfigError(
            "--outcome ok: an answer that was judged is not tried again, since choosing among "
            "answers would bend every number: send more samples instead"
        )
    unknown = [name for name in names if name not in ALLOWED]
    if unknown:
        raise ConfigError(f"--outcome {unknown[0][:40]!r}: choose from {', '.join(ALLOWED)}")
    return names


def shown(ended: Iterable[Ended]) -> Iterator[dict[str, Any]]:
    """What a dry run prints for them."""
    for each in ended:
        result = each.result
        yield {"task_id": each.next_id, "retry_of": result.task_id, "outcome": result.outcome}
