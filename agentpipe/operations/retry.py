"""Retry: sends the tasks of a run that ended badly again, as further attempts at their samples.

No state is kept about what was sent. An attempt's id is the first attempt's id with ``~r`` and a
number, and an id is accepted once: repeating a retry adds nothing while an attempt is under way,
and an attempt that ended well is the last one.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import orjson

from agentpipe.brokers.capabilities import KeepsDeadLetters
from agentpipe.core.result import OUTCOMES
from agentpipe.core.secret_forms import MASK
from agentpipe.core.task import Task
from agentpipe.errors import ConfigError, FormatError, TaskError
from agentpipe.evaluation.kept_answer import begun_again
from agentpipe.operations.judging.samples import Sample, families
from agentpipe.sending.admission import admit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.dead_letter import DeadLetter
    from agentpipe.core.result import Result
    from agentpipe.sending.admission import AdmittedTask
    from agentpipe.sending.dispatcher import Dispatcher
    from agentpipe.sending.sent import Sent

# Failures not due to the answer, or that may be chance; a judged answer is never retried.
USUAL = ("agent_error", "limit", "eval_error", "infra_error")
ALLOWED = tuple(each for each in OUTCOMES if each != "ok")
BATCH = 20
MAX_PROBLEMS = 20
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
class Retried:
    """The outcome of a retry.

    Attributes:
        task_ids: Ids of the accepted attempts.
        duplicate_ids: Ids of attempts that were sent before and are under way.
        refused: Number of attempts refused because the queues are full.
        failed: Number of attempts that cannot be sent.
        problems: Why attempts failed, up to ``MAX_PROBLEMS``.
    """

    task_ids: list[str] = field(default_factory=list)
    duplicate_ids: list[str] = field(default_factory=list)
    refused: int = 0
    failed: int = 0
    problems: list[str] = field(default_factory=list)

    def note(self, problem: str, number: int = 1) -> None:
        """Count attempts that cannot be sent."""
        self.failed += number
        if number and len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)


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

    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher,
        *,
        on_full: Literal["refuse", "wait"] = "refuse",
    ) -> None:
        self._letters = store if isinstance(store, KeepsDeadLetters) else None
        self._dispatcher, self._on_full = dispatcher, on_full
        self._done = Retried()

    def run(self, ended: Sequence[Ended]) -> Retried:
        """Send all attempts."""
        for at in range(0, len(ended), BATCH):
            self._send_all(ended[at : at + BATCH])
        return self._done

    def _send_all(self, ended: Sequence[Ended]) -> None:
        dead = self._dead([each.result.task_id for each in ended])
        by_target: dict[tuple[str, bool], list[AdmittedTask]] = defaultdict(list)
        for each in ended:
            letter = dead.get(each.result.task_id)
            if task := self._task(each, letter):
                by_target[_target_of(each.result, letter, task.task)].append(task)
        for (target, round_robin), tasks in by_target.items():
            self._send(target, tasks, round_robin=round_robin)

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

    def _send(self, target: str, tasks: Sequence[AdmittedTask], *, round_robin: bool) -> None:
        try:
            sent = self._dispatcher.send_many(
                target, tasks, on_full=self._on_full, round_robin=round_robin
            )
        except ConfigError as error:  # The target is not declared.
            self._done.note(str(error), len(tasks))
            return
        self._done.task_ids += sent.task_ids
        self._done.duplicate_ids += sent.duplicate_ids
        self._done.refused += sent.refused
        self._drop(sent, tasks)

    def _drop(self, sent: Sent, tasks: Iterable[AdmittedTask]) -> None:
        """Drop the letters that were retried: replaying one would add a further attempt."""
        taken = {*sent.task_ids, *sent.duplicate_ids}
        followed = (each.task.retry_of for each in tasks if each.task_id in taken)
        if self._letters is not None:
            self._letters.drop_dead([task_id for task_id in followed if task_id])


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


def _target_of(result: Result, letter: DeadLetter | None, task: Task) -> tuple[str, bool]:
    """The target, and whether any agent will do; an answer is judged by the agent that gave it."""
    if task.answered is not None and letter is not None:
        return letter.queue, False
    return result.collection or result.agent or "", True


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
