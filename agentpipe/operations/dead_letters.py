"""Lists, counts, groups, replays and drops dead letters.

Summaries come in pages, and complete letters only by id, to bound memory.
"""

from __future__ import annotations

import re
import time
import uuid
from collections import defaultdict
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import orjson

from agentpipe.brokers.base import Store
from agentpipe.brokers.capabilities import KeepsDeadLetters, require
from agentpipe.brokers.dead_letter import DeadFilter, DeadPage
from agentpipe.core.run_names import prefix_of
from agentpipe.core.task import Task
from agentpipe.errors import AgentpipeError, ConfigError, FormatError, TaskError
from agentpipe.evaluation.kept_answer import begun_again
from agentpipe.sending.admission import admit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from agentpipe.brokers.dead_letter import DeadLetter, DeadSummary
    from agentpipe.sending.admission import AdmittedTask
    from agentpipe.sending.dispatcher import Dispatcher
    from agentpipe.sending.sent import Sent

PAGE = 500
WHOLE_AT_ONCE = 20
MAX_GROUPS = 1_000
MAX_SHAPE_CHARS = 200
MAX_PROBLEMS = 20
# Parts that differ between failures of the same kind: words with digits, except status codes.
_ANY = re.compile(r"\b(?!\d{1,3}\b)[\w-]*\d[\w-]*")


@runtime_checkable
class DeadStore(Store, KeepsDeadLetters, Protocol):
    """A store that keeps dead letters."""


def with_dead_letters(store: Store) -> DeadStore:
    """The store as one that keeps dead letters.

    Raises:
        ConfigError: It does not support dead letters.
    """
    return require(store, DeadStore, "keep dead letters")


def page(store: KeepsDeadLetters, wanted: DeadFilter, after: str, limit: int) -> DeadPage:
    """A full page, unless it is the last; the store itself may return short pages."""
    found: list[DeadSummary] = []
    while True:
        part = store.dead_letters(wanted, after, limit - len(found))
        found += part.letters
        if part.after is None or len(found) >= limit:
            return DeadPage(tuple(found), part.after)
        after = part.after


def pages(store: KeepsDeadLetters, wanted: DeadFilter) -> Iterator[Sequence[DeadSummary]]:
    """All letters that exist at the start; later ones may be replays of the same tasks."""
    now = time.time()
    wanted = replace(wanted, until=now if wanted.until is None else min(now, wanted.until))
    after: str | None = ""
    while after is not None:
        part = store.dead_letters(wanted, after, PAGE)
        after = part.after
        yield part.letters


def count(store: KeepsDeadLetters, wanted: DeadFilter) -> int:
    """The number of matches; reads all of them if the store does not count."""
    number = store.count_dead(wanted)
    return sum(map(len, pages(store, wanted))) if number is None else number


def named(store: KeepsDeadLetters, task_ids: Iterable[str]) -> Iterator[Sequence[DeadSummary]]:
    """The dead letters with these ids.

    Raises:
        AgentpipeError: One does not exist; then nothing is returned.
    """
    wanted = list(dict.fromkeys(task_ids))
    found = [[it.summary for it in store.read_dead(part)] for part in _parts(wanted)]
    missing = set(wanted) - {letter.task_id for letter in chain.from_iterable(found)}
    if missing:
        ids = ", ".join(sorted(missing))
        raise AgentpipeError(
            f"no dead letter or undeliverable result has the id {ids}: see `agentpipe dead list`"
        )
    return iter(found)


def whole(
    store: KeepsDeadLetters, batches: Iterable[Sequence[DeadSummary]]
) -> Iterator[Sequence[DeadLetter]]:
    """Complete letters, with payload and result, a few at a time."""
    for batch in batches:
        for part in _parts([letter.task_id for letter in batch]):
            yield store.read_dead(part)


def drop(store: KeepsDeadLetters, batches: Iterable[Sequence[DeadSummary]]) -> int:
    """Delete the letters; returns how many."""
    return sum(store.drop_dead([letter.task_id for letter in batch]) for batch in batches if batch)


@dataclass(slots=True)
class DeadGroup:
    """Dead letters with one outcome and one kind of error.

    Attributes:
        error: Their reason, with ``#`` for the parts that differ.
        first: When the first letter died, in Unix seconds.
        last: When the last letter died, in Unix seconds.
        example: The id of the last letter.
    """

    outcome: str
    error: str
    count: int = 0
    first: float = 0.0
    last: float = 0.0
    example: str = ""

    def add(self, letter: DeadSummary) -> None:
        """Add a letter to the group."""
        self.first = min(self.first, letter.died_at) if self.count else letter.died_at
        if letter.died_at >= self.last:
            self.last, self.example = letter.died_at, letter.task_id
        self.count += 1


def groups(store: KeepsDeadLetters, wanted: DeadFilter) -> list[DeadGroup]:
    """Largest group first; with too many kinds of errors, the rest is grouped by type."""
    found: dict[tuple[str, str], DeadGroup] = {}
    for letter in chain.from_iterable(pages(store, wanted)):
        key = letter.outcome, shape(letter.reason)
        if key not in found and len(found) >= MAX_GROUPS:
            key = letter.outcome, letter.reason.partition(":")[0][:MAX_SHAPE_CHARS]
        found.setdefault(key, DeadGroup(*key)).add(letter)
    return sorted(found.values(), key=lambda group: -group.count)


def shape(reason: str) -> str:
    """A reason with ids and long numbers replaced by ``#``."""
    return _ANY.sub("#", reason[: 2 * MAX_SHAPE_CHARS])[:MAX_SHAPE_CHARS]


@dataclass(slots=True)
class Replayed:
    """The outcome of a replay.

    Attributes:
        task_ids: Ids of the accepted replays.
        known: Number of letters already accepted by an interrupted replay.
        refused: Number of letters kept because every queue was full.
        failed: Number of letters kept because they cannot be sent.
        problems: Why letters failed, up to ``MAX_PROBLEMS``.
    """

    task_ids: list[str] = field(default_factory=list)
    known: int = 0
    refused: int = 0
    failed: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def replayed(self) -> int:
        """The number of accepted replays."""
        return len(self.task_ids) + self.known


class Replay:
    """Sends dead letters as new tasks, and drops each letter once its task was accepted.

    The new id derives from the old id and the time of death, so repeating an interrupted replay
    does not duplicate tasks.
    """

    def __init__(
        self,
        store: KeepsDeadLetters,
        dispatcher: Dispatcher,
        *,
        to: str | None = None,
        on_full: Literal["refuse", "wait"] = "refuse",
    ) -> None:
        self._store, self._dispatcher = store, dispatcher
        self._to, self._on_full = to, on_full
        self._full: set[str] = set()
        self._done = Replayed()

    def run(self, batches: Iterable[Sequence[DeadSummary]]) -> Replayed:
        """Replay all letters, a few at a time; a full collection is not retried."""
        for batch in batches:
            open_to = [letter for letter in batch if self._target(letter) not in self._full]
            self._done.refused += len(batch) - len(open_to)
            for letters in whole(self._store, [open_to]):
                self._send_all(letters)
        return self._done

    def _target(self, letter: DeadSummary) -> str:
        return self._to or letter.collection or letter.queue

    def _send_all(self, letters: Iterable[DeadLetter]) -> None:
        by_target = defaultdict(list)
        for letter in letters:
            if task := self._task(letter):
                by_target[self._target_of(letter, task)].append(task)
        for (target, round_robin), tasks in by_target.items():
            self._send(target, tasks, round_robin=round_robin)

    def _target_of(self, letter: DeadLetter, task: AdmittedTask) -> tuple[str, bool]:
        """The letter's own agent for a kept answer, which must be judged in its own context."""
        if task.task.answered is not None and self._to is None:
            return letter.queue, False
        return self._target(letter), True

    def _send(self, target: str, tasks: Sequence[AdmittedTask], *, round_robin: bool) -> None:
        try:
            sent = self._dispatcher.send_many(
                target, tasks, on_full=self._on_full, round_robin=round_robin
            )
        except ConfigError as error:  # The target is not declared.
            self._note(str(error), len(tasks))
            return
        self._drop(sent, tasks)
        if sent.refused:
            self._full.add(target)

    def _task(self, letter: DeadLetter) -> AdmittedTask | None:
        try:
            return admit(as_task(letter))
        except TaskError as error:
            self._note(str(error), 1)
            return None

    def _drop(self, sent: Sent, tasks: Iterable[AdmittedTask]) -> None:
        accepted = {*sent.task_ids, *sent.duplicate_ids}
        sent_tasks = (each.task for each in tasks)
        done = [it.replay_of for it in sent_tasks if it.replay_of and it.task_id in accepted]
        self._store.drop_dead(done)
        self._done.task_ids += sent.task_ids
        self._done.known += sent.duplicates
        self._done.refused += sent.refused

    def _note(self, problem: str, number: int) -> None:
        self._done.failed += number
        if number and len(self._done.problems) < MAX_PROBLEMS:
            self._done.problems.append(problem)


def as_task(letter: DeadLetter) -> Task:
    """The task that replays a letter, without its deadline.

    Raises:
        TaskError: The payload is not a valid task.
    """
    try:
        task = Task.decode(orjson.loads(letter.payload))
    except (FormatError, orjson.JSONDecodeError) as error:
        raise TaskError(
            f"{letter.task_id} cannot be replayed, invalid task: {error}. Drop it instead."
        ) from error
    new_id = uuid.uuid5(uuid.NAMESPACE_OID, f"{letter.task_id} {letter.died_at:.6f}").hex
    answered = begun_again(task.answered) if task.answered else None
    replay_of = letter.task_id
    if task.run is not None:
        new_id = f"{prefix_of(task.run)}{new_id}"
    return replace(
        task,
        task_id=new_id,
        replay_of=replay_of,
        deadline=None,
        answered=answered,
        spent_before=None,
    )


def _parts(task_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(task_ids), WHOLE_AT_ONCE):
        yield task_ids[first : first + WHOLE_AT_ONCE]
